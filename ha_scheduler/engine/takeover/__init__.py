"""A takeover: from the reports of workers to a leader that schedules."""

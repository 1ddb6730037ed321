"""Workers: how they join, return, retire and are restarted."""

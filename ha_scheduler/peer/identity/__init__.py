"""Who may call: certificates, enrolment, tokens and the keys by which they are judged."""

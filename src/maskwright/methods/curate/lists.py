"""The lists that commands leave for people and for the labelling page: files and formats. Imports nothing, as the page reads it too."""

NEXT, NEXT_FORMAT = "next.json", "maskwright next 1"
AUDIT, AUDIT_FORMAT = "audit.json", "maskwright audit 1"

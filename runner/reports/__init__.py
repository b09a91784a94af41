"""Reports: events, records and findings as text, live terminal, JSON, HTML and other forms."""

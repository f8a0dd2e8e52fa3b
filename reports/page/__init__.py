"""The report: one HTML page that answers a question to forward, section by section."""

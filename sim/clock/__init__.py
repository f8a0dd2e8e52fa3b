"""When: programs of timed items on streams, the event engine that runs them, and flows that share links."""

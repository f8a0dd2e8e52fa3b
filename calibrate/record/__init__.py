"""Our track record: errors and coverage by family, order of alternatives, headline experiments."""

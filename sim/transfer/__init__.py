"""One transfer by itself: a collective or an expert exchange, its time, its busiest link, what runs beside it."""

"""The closed loop: real torch programs that no sample has seen, measured, and predicted by the ordinary simulator."""

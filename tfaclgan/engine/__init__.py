"""How a phase's gradient is taken and applied on a framework."""

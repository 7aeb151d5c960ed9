"""The place where Mi-Crow keeps its SAEs."""

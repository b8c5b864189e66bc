"""What notebooks show: figures, tables, explorers, the map of the method."""

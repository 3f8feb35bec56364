"""What runs the cookbook, and no copy of a recipe contains."""

"""A delta model trained beside a frozen template."""

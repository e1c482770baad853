"""What every report shares: estimates with their intervals, and tables."""

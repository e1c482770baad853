"""What every report shares: estimates with their intervals, tables, and pictures."""

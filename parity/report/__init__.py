"""What people see: tables, summaries, pages."""

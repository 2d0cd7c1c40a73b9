"""Tables, summaries, pages: everything that people see."""

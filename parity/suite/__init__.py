"""Official and native on the same cases, compared and judged."""

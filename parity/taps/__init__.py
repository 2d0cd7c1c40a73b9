"""What can be compared, and in which order it flows: names, groups, data-flow, patterns of taps."""

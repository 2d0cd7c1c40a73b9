"""Everything that can be compared, in the order it flows: names, groups, data-flow, patterns of taps."""

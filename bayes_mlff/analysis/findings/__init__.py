"""Each analysis as a finding: numbers, table, figure, and what was assumed."""

"""Which method helps on mine. So far the demo: two methods on the reader's own text."""

"""One node: these modules alone know all parts. They build, join and run them."""

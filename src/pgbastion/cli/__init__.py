"""The command line: parse the request, call one function, render the answer."""

"""Tables and figures of the papers, each computed from stores by one function and one command."""

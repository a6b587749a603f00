"""Tables, figures and the page that shows them, from rows alone."""

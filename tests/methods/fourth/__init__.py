"""A fourth method, as a user of this field would add one: a folder and a line in the table."""

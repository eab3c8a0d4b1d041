"""Tools of the house: they redraw pictures and confirm figures; none of them measures speed."""

"""Classification on the plane: logistic regression, two moons, Laplace against VI."""

"""Pictures of the Datasets: a Dataset in, an axis out; nothing is calculated here."""

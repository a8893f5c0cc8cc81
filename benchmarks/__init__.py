"""La medida de la velocidad: `make bench`. Aquí no hay pruebas ni nada que el paquete use."""

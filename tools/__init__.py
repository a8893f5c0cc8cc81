"""Lo que usa el Makefile para no hacerlo a mano; nada de esto se instala."""

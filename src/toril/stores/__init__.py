"""How each store does what `toril.store` asks. Only `toril.places` names them."""

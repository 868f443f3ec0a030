"""How each store does what `toril.store` asks. Only `toril.connect` names them."""

"""The stages: embed, distill, evaluate (and pretrain), and the recipe that chains them."""

"""The training loop: land, prepare, finetune, evaluate, promote. One trip round is a round, committed by its manifest."""

"""The training loop: land, prepare, finetune, evaluate, promote. One trip round is a turn, committed by its manifest."""

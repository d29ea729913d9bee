"""The training loop: land, prepare, finetune, evaluate, promote. One trip round is a round, committed by its manifest.

    round                   the pipeline, and one pass through it; `plan` fixes what it learns from
    data                    the stage prepare: answers and verdicts to a dataset
    power                   how large a gain the verdicts could show
    recipes                 how a model is trained; `recipe` is what they have in common
    finetune, trainer       the stage, and the training itself; `checkpoint`, `position` and `interrupt` let it be killed
    evaluate, measures      challenger against champion on held-out questions
    gate                    the decision whether to promote: `decide`
    promote                 the stage that asks the gate, releases the weights, publishes the manifest, and moves the pointer
    promotions              moves of the champion pointer, each recorded
    manifest                the plan and the manifest of a round
    cutoff                  what a round may not learn from
    scratch                 folders for files on their way to a store or from one
    served_order, ranker, crossencoder, encoder, causal    the models in training

What is served and how, also a canary and a rollback: `headrace/registry/`.
"""

"""The table tier: handles and table backends."""

from pyiceberg.typedef import IcebergBaseModel, IcebergRootModel

from headrace.imports import when_used

# The reader of pyiceberg's own settings file, which loads strictyaml, forty modules: used where there is such a file.
with when_used("strictyaml"):
    import pyiceberg.utils.config  # noqa: F401

# A hundred and fifty models, of which a command uses some thirty: each builds its validator when it is first used.
for _model in (IcebergBaseModel, IcebergRootModel):
    _model.model_config["defer_build"] = True

"""Changes carried out as pull requests: values edited where they stand in a repository, proposed to its people.

Belongs here: edits of YAML and Terraform, git, the interface of GitHub and what is compatible with it, the target that
joins them. Does not belong here: when it is called (the execution desk), whether it may be (governance). See
``docs/targets-forge.md``.
"""

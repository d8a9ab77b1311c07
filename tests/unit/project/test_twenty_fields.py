"""No dataclass has 20 fields: Python 3.11 keeps 2,000 tuples of 20 and uses none of them again.

Each `replace` of one makes such a tuple (`findings/python_tuples_of_twenty.sh`): 0.4 MB after 2,000 changes of links.
"""

import dataclasses
import importlib
import pkgutil

import agent
import discovery

FIELDS = 20


def test_no_dataclass_has_twenty_fields() -> None:
    found = []
    for package in (agent, discovery):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__"):
                continue
            for name, one in vars(importlib.import_module(module.name)).items():
                if isinstance(one, type) and dataclasses.is_dataclass(one) and len(dataclasses.fields(one)) == FIELDS:
                    found.append(f"{module.name}.{name}")
    assert not found

"""cookiecutter.json, computed from copier.yml.

python -m tests.template.cookiecutter_questions > cookiecutter.json
"""

import json
from typing import Any

from tests.template.answers import QUESTIONS, options


def cookiecutter_questions() -> dict[str, Any]:
    """The questions in Cookiecutter's terms.

    A question that is not asked gets two underscores: Cookiecutter does not ask it either, and it
    can still be set.
    """
    questions: dict[str, Any] = {}
    prompts: dict[str, Any] = {}
    for name, spec in QUESTIONS.items():
        if not spec.get("ask", True):
            questions[f"__{name}"] = spec["default"]
            continue
        # Cookiecutter asks in one line, and has a yes-or-no of its own.
        prompts[name] = " ".join(spec["help"].split())
        questions[name] = spec["default"]
        if "choices" in spec and spec["type"] != "bool":
            questions[name] = options(name)
            labels = {value: text for text, value in spec["choices"].items()}
            prompts[name] = {"__prompt__": prompts[name]} | {
                str(value): labels[value] for value in questions[name]
            }
    return questions | {"__prompts__": prompts}


def cookiecutter_json() -> str:
    return json.dumps(cookiecutter_questions(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(cookiecutter_json(), end="")

"""Read groups: steps with a chain of steps, which is written in the step or in a file that the step includes.

The parameters of an included chain are bound by `with`, and valid in the chain only; those that `with` does not name
are parameters of the plan, as those of every included file. The chains are found before the steps are read, because the
values of the plan's parameters must be known by then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from runner.identity import inner_key
from runner.plan.groups import bound_values
from runner.plan.model import Bound, ForEach, OnFinish, OnRunnerExit, Param, Sql, Step, Value
from runner.plan.parameters import declare_params, is_declared_alike, raw_value, read_value
from runner.plan.plan_files import Includes, PlanFile
from runner.plan.sql_scope import Scope, check_plain_texts, check_references, param_names
from runner.plan.steps import Draft, StepReader, check_parameters, read_for_each, read_needs
from runner.plan.yaml_nodes import Fields, Scalar
from runner.plan.yaml_nodes import Mapping as MappingNode
from runner.structs import Struct, field, replace

#: The keys of a group. `role` and `search_path` are those of its query for items, and the defaults of its steps.
_KEYS: Final = frozenset({"id", "description", "tags", "needs", "for_each", "steps", "include", "role", "search_path"})
_INHERITED: Final = ("role", "search_path")
#: Keys that only make sense for one worker.
_OF_A_WORKER: Final = "write it in each step of the chain, or in `defaults`"
_NO_NESTING: Final = "groups cannot be nested"
#: A value of `with` that is one name; other keys write it in the same way.
_ONE_NAME: Final = re.compile(r""":(?:'([\w.]+)'|"([\w.]+)"|([A-Za-z_][\w.]*))""")
_NAME_INSIDE: Final = re.compile(r"""(?<![:\w]):(?:'[\w.]+'|"[\w.]+")""")


class Chain(Struct, frozen=True, kw_only=True):
    """The chain of one group: the files that have its steps, their parameters, and what `with` binds."""

    parts: tuple[PlanFile, ...]
    params: Mapping[str, Param] = field(default_factory=dict)
    bindings: Fields | None = None

    @property
    def bound(self) -> frozenset[str]:
        """The names that `with` binds."""
        return frozenset() if self.bindings is None else frozenset(self.bindings.present)


#: The chains of a plan's groups, by the identity of the group's node.
Chains = Mapping[int, Chain]


def is_group_node(node: MappingNode) -> bool:
    """Return whether a step is written as a group."""
    return ("steps" in node.values or "include" in node.values) and not node.values.keys() & {"sql", "sql_file"}


def find_chains(parts: Iterable[PlanFile], includes: Includes) -> Chains:
    """Return the chain of each group in these files; files that groups include are read."""
    found: dict[int, Chain] = {}
    for part in parts:
        for key in ("steps", "finally"):
            for node in part.fields.items(key):
                if isinstance(node, MappingNode) and is_group_node(node):
                    found[id(node)] = _chain(part, node, includes)
    return found


def _chain(part: PlanFile, node: MappingNode, includes: Includes) -> Chain:
    fields = part.fields.within(node)
    include = fields.node("include")
    if include is None or fields.has("steps"):
        return Chain(parts=(PlanFile(fields=fields, name=part.name),))
    entry = fields.within(include) if isinstance(include, MappingNode) else None
    file = include if isinstance(include, Scalar) else entry.scalar("file") if entry is not None else None
    parts = () if file is None else includes.of_step(file, part.name, fields.text("id"))
    params = declare_params(each.fields for each in parts)
    return Chain(parts=parts, params=params, bindings=entry.mapping("with") if entry is not None else None)


def with_params_of_chains(params: Mapping[str, Param], chains: Chains) -> dict[str, Param]:
    """Return the plan's parameters, and those of its chains that `with` does not bind."""
    found = dict(params)
    for chain in chains.values():
        for name, param in chain.params.items():
            if name in chain.bound:
                continue
            known = found.setdefault(name, param)
            if not is_declared_alike(known, param):
                message = f"the parameter `{name}` is declared differently at {known.position}"
                hint = "declare it once, or with the same keys and values, or bind it with `with`"
                chain.parts[-1].fields.add(param.position, "JP224", message, hint=hint)
    return found


class GroupReader(Struct, frozen=True, kw_only=True):
    """Reads the groups of a plan. `values` are the known values of the plan's parameters."""

    chains: Chains
    values: Mapping[str, Value]

    def read(
        self, steps: StepReader, file: PlanFile, node: MappingNode, scope: Scope, *, finally_: bool = False
    ) -> Draft:
        """Return the group, with the drafts of its steps; report each problem."""
        defaults = {key: value for key, value in steps.defaults.items() if key in _KEYS}
        fields = steps.fields_of(file, node, defaults)
        chain = self.chains[id(node)]
        needs = read_needs(fields, file.prefix)
        for_each = _without_chunks(fields, read_for_each(fields, steps.params))
        _check_keys(fields)
        if for_each is not None and for_each.sql is not None:
            check_references(for_each.sql, scope, fields)
        items = scope.with_items(for_each)
        bound = _bound(fields, chain, items, for_each, self.values)
        names = param_names({one.param.name: one.param for one in bound})
        own = {name: known for name, known in items.items.items() if name not in names}
        inner_scope = replace(items, names={**items.names, **names}, items=own)
        check_parameters(fields, items)
        drafts = tuple(self._inner(steps, chain, fields, inner_scope, finally_=finally_))
        step = Step(
            id=fields.step or "",
            sql=Sql(text="", start=node.position),
            on_finish=OnFinish.WAIT,
            on_runner_exit=OnRunnerExit.CANCEL,
            needs=tuple(need for need, _ in needs),
            for_each=for_each,
            role=fields.text("role") or None,
            search_path=fields.text("search_path") or None,
            tags=frozenset(fields.texts("tags")),
            description=fields.text("description"),
            position=node.position,
            steps=tuple(draft.step for draft in drafts),
            bound=bound,
        )
        return Draft(step=step, fields=fields, needs=needs, finally_=finally_, inner=drafts)

    def _inner(
        self, steps: StepReader, chain: Chain, group: Fields, scope: Scope, *, finally_: bool
    ) -> Iterator[Draft]:
        inherited = {key: node for key in _INHERITED if (node := group.node(key)) is not None}
        defaults = {key: node for key, node in steps.defaults.items() if key != "for_each"}
        for part in chain.parts:
            reader = replace(
                steps,
                defaults={**defaults, **inherited},
                unusable=steps.unusable | part.fields.unusable,
                group=group.step or "",
            )
            for node in part.fields.items("steps"):
                if not isinstance(node, MappingNode):
                    continue
                alone = _without_nesting(part, node, group.step)
                own = scope
                if alone is not node and "for_each" in node.values:  # its items are no further problems
                    items = scope.with_items(read_for_each(part.fields.within(node), steps.params))
                    own = replace(scope, items={**items.items, **scope.items})
                yield reader.read(part, alone, own, finally_=finally_)
            if part.fields.place is not group.place:
                check_plain_texts(part.fields, scope.all_names)


def _check_keys(fields: Fields) -> None:
    for key in fields.present:
        if key not in _KEYS and not key.startswith("x-"):
            message = f"a group has no `{key}`: it would not be clear whether a step, an item or the group is meant"
            fields.add(fields.key(key), "JP257", message, hint=_OF_A_WORKER)


def _without_chunks(fields: Fields, for_each: ForEach | None) -> ForEach | None:
    if for_each is None or for_each.chunk is None:
        return for_each
    place = fields.mapping("for_each")
    message = "a group cannot have `chunk`: each item has its own chain of steps"
    fields.add(fields.key("for_each") if place is None else place.key("chunk"), "JP257", message)
    return replace(for_each, chunk=None)


def _without_nesting(part: PlanFile, node: MappingNode, group: str | None) -> MappingNode:
    """Return a step of a chain without the keys that would make it a group or give it items; report them."""
    wrong = [key for key in ("steps", "include", "for_each") if key in node.values]
    id_ = node.values.get("id")
    name = inner_key(group or "", id_.text) if isinstance(id_, Scalar) else group
    for key in wrong:
        if key == "for_each":
            message = f"a step of the group `{group}` has no `for_each` of its own"
            hint = "let the group's `for_each` return one row for each, or write a loop in SQL"
        else:
            message = f"a step of the group `{group}` is not a group itself: {_NO_NESTING}"
            hint = "write the steps of both in one chain"
        part.fields.report.add(node.keys.get(key, node), "JP258", message, hint=hint, step=name)
    if not wrong:
        return node
    kept = {key: value for key, value in node.values.items() if key not in wrong}
    return MappingNode(node.source, node.line, node.column, kept, node.keys, node.size)


def _bound(
    fields: Fields, chain: Chain, items: Scope, for_each: ForEach | None, values: Mapping[str, Value]
) -> tuple[Bound, ...]:
    found: list[Bound] = []
    bindings = chain.bindings
    if bindings is None:
        return ()
    for name, node in bindings.pairs():
        param = chain.params.get(name)
        if param is None:
            hint = fields.report.guesses.did_you_mean(name, chain.params)
            hint = hint or f"declare `{name}` under `params` of the file"
            fields.add(bindings.key(name), "JP259", f"the file has no parameter `{name}`", hint=hint)
        elif isinstance(node, Scalar):
            one = _binding(fields, param, node, items, values)
            if one is not None and _fits_items(fields, one, node, for_each):
                found.append(one)
            else:
                found.append(Bound(param=param))  # its uses in the chain are no further problems
    return tuple(found)


def _binding(fields: Fields, param: Param, node: Scalar, items: Scope, values: Mapping[str, Value]) -> Bound | None:
    """Return what a parameter is bound to; None and a problem if its value is wrong."""
    named = _ONE_NAME.fullmatch(node.text) if isinstance(node.value, str) else None
    if named is not None:
        name = named[1] or named[2] or named[3]
        if items.is_item(name):
            return Bound(param=param, source=name)
        if items.find(name) is None or name not in items.names or "." in name:
            hint = fields.report.guesses.did_you_mean(name, [*items.items, *items.names])
            message = f"`{node.text}` is no column of the group's item and no parameter of the plan"
            fields.add(node, "JP259", message, hint=hint)
            return None
        constant = Bound(param=param) if name not in values else _constant(fields, param, node, values[name])
        return None if constant is None else replace(constant, source=name)
    if isinstance(node.value, str) and _NAME_INSIDE.search(node.text):
        message = f"`{param.name}`: a value of `with` is a constant or one name, not a text with a name in it"
        fields.add(node, "JP259", message, hint="put the text together in the SQL of the chain, or in the item's query")
        return None
    return _constant(fields, param, node, raw_value(node))


def _constant(fields: Fields, param: Param, node: Scalar, raw: object) -> Bound | None:
    try:
        value = read_value(param, raw)
    except ValueError as error:
        message = f"the value of `{param.name}` {error}"
        fields.add(node, "JP259", message, hint=f"`{param.name}` is of type {param.type}")
        return None
    return Bound(param=param, value=value)


def _fits_items(fields: Fields, bound: Bound, node: Scalar, for_each: ForEach | None) -> bool:
    """Check the items that the plan lists; those of a query are checked when it has run."""
    if bound.value is not None or bound.source is None or for_each is None:
        return True
    for item in for_each.items:
        as_ = for_each.as_
        columns = item if isinstance(item, Mapping) else {"": item}
        named = {f"{as_}.{column}" if column else as_: value for column, value in columns.items()}
        if len(columns) == 1:
            named[as_] = next(iter(columns.values()))
        try:
            bound_values((bound,), named)
        except ValueError as error:
            message = f"the value {error}"
            fields.add(node, "JP259", message, hint=f"`{bound.param.name}` is of type {bound.param.type}")
            return False
    return True

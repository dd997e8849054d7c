"""Where a plan of the solver walks, and how far beside its way the gifts of a world lie."""

from __future__ import annotations

from cluster_rl.cartridge.solver import Planner, goals, possible_acts
from cluster_rl.cartridge.story import Cell, Secrets, Story, Thing


def cells_of_plan(story: Story, secrets: Secrets) -> set[Cell]:
    """All cells that the plan of a new game walks on, doors on both sides."""
    planner, state = Planner(story), story.start()
    cells = {state.cell}
    for event in goals(story, story.world["gate"]):
        acts, end = planner.plan(state, secrets, event)
        for act in acts:
            here = state.cell
            for letter in act.route:
                beside = next(cell for direction, cell in story.beside(here) if direction[0] == letter)
                onto = story.slide(story.doors.get(beside, beside), state)
                assert onto is not None
                cells |= {beside, onto}
                here = onto
            assert here == act.cell
            cells.add(here)
            state = next(after for possible, _, after in possible_acts(story, state, secrets) if possible == act)
        assert state == end
    return cells


def gifts(story: Story) -> dict[str, list[Thing]]:
    """Item to who gives it, of the gifts: no key item, never for sale, and some script asks for them."""
    facts = [value for t in story.things for way in t.ways for kind, value in way.lines if kind == "if"]
    asked = {fact[1] for fact in facts if fact[0] == "item"}
    free = {item for item, price in story.prices.items() if not price} - story.key_items
    found: dict[str, list[Thing]] = {}
    for thing in story.things:
        given = {effect[1] for way in thing.ways for effect in way.effects if effect[0] == "give"}
        for item in given & asked & free:
            found.setdefault(item, []).append(thing)
    return found


def gift_distances(story: Story, secrets: Secrets) -> dict[str, int]:
    """Gift to cells of walking from the nearest cell of the plan's way to the nearest who gives it, his own counted.
    Doors are one cell; whoever can ever go away is taken as gone."""
    way = cells_of_plan(story, secrets)
    distance, todo = dict.fromkeys(way, 0), list(way)
    for cell in todo:
        for _, beside in story.beside(cell):
            onto = story.doors.get(beside, beside)
            if beside in story.walkable and story.people.get(beside) != "" and onto not in distance:
                distance[onto] = distance[cell] + 1
                todo.append(onto)
    return {
        item: min(distance[cell] for thing in givers for cell in thing.stands if cell in distance) + 1
        for item, givers in gifts(story).items()
    }

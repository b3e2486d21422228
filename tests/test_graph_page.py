"""The page of a graph in a real browser: what is drawn, clicking, searching, filtering, many tasks, hostile names."""

import pytest
from selenium.webdriver import ActionChains

from superluigi import External, task_graph
from superluigi.markup import Tone
from superluigi.pictures.graphs import Section, interactive
from superluigi.visuals import Edge, Graph, Look, Node

LOOKS = {
    "complete": Look("✓", Tone.GOOD, "is there"),
    "missing": Look("○", Tone.PLAIN, "is not there"),
    "stale": Look("↻", Tone.NOTE, "is out of date"),
}
STATES = list(LOOKS)
HARM = "window.harmed = 1"
HOSTILE = f"</script><script>{HARM}</script><img src=x onerror='{HARM}'>\"\\`${{{HARM}}}\u202e\ud800"
ESCAPE, ENTER, LEFT = "\ue00c", "\ue007", "\ue012"


def node(number, upstream=(), family="Day", state="complete"):
    return Node(
        f"id-{family}-{number}", f"{family}(n={number})", state, "", tuple(Edge(key) for key in upstream), family
    )


def small():
    raw = [node(number, family="Raw") for number in range(2)]
    days = [node(number, [raw[number].key], state="missing") for number in range(2)]
    top = Node("top", "Top(x=1)", "stale", "", (Edge(days[0].key, "first"), Edge(days[1].key, "second")), "Top")
    return Graph("Graph of Top", ("top",), (*raw, *days, top), LOOKS)


def fan(width):
    """So many days of one family, every tenth missing, below one task."""
    days = [node(number, state="missing" if number % 10 == 0 else "complete") for number in range(width)]
    top = Node("top", "Top(x=1)", "missing", "", tuple(Edge(day.key, f"days.{n}") for n, day in enumerate(days)), "Top")
    return Graph("", ("top",), (*days, top), LOOKS)


def chain(length):
    links = [node(number, [f"id-Link-{number - 1}"] if number else [], "Link") for number in range(length)]
    return Graph("", (links[-1].key,), tuple(links), LOOKS)


def tangled(count):
    """Many families that require each other across all layers."""
    nodes = []
    for number in range(count):
        upstream = {number * factor // 11 for factor in (10, 7, 3)} if number else set()
        keys = [nodes[other].key for other in sorted(upstream)]
        nodes.append(node(number, keys, f"Family{number // 2}", STATES[number % 3]))
    return Graph("", (nodes[-1].key,), tuple(nodes), LOOKS)


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of a graph; at the end nothing was asked for, and nothing complained about."""

    def opening(graph, sections=lambda node: [Section("Parameters", (("n", node.label),))], *, dark=False):
        path = tmp_path / "graph.html"
        path.write_text(interactive(graph, sections), encoding="utf-8")
        browser.open(path, dark=dark)
        settle(browser)
        return browser

    yield opening

    assert browser.problems() == []
    assert browser.requests() == []


def settle(browser):
    """Wait until what was done is drawn."""
    browser.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def press(browser, *keys):
    ActionChains(browser.driver).send_keys(*keys).perform()
    settle(browser)


def boxes(browser):
    """The words of what is drawn."""
    return sorted(
        words.replace("\n", " ") for words in browser.run("return cy.nodes().map((box) => box.data('words'))")
    )


def click_box(browser, words):
    script = "return cy.nodes().filter((box) => box.data('words').startsWith(arguments[0]))[0].renderedPosition()"
    place = browser.run(script, words)
    browser.click_at("#picture", place["x"], place["y"])


def test_a_small_graph_shows_every_task_with_its_sign_and_every_edge(opened):
    browser = opened(small())

    assert boxes(browser) == ["↻ Top x=1", "○ Day n=0", "○ Day n=1", "✓ Raw n=0", "✓ Raw n=1"]
    assert browser.run("return cy.edges().map((wire) => wire.data('role')).sort()") == ["", "", "first", "second"]
    assert browser.driver.title == browser.text("h1") == "Graph of Top"
    assert browser.run("return cy.edges().every((wire) => Number.isFinite(wire.sourceEndpoint().x))")


def test_what_is_upstream_stands_left_of_what_is_made_from_it(opened):
    browser = opened(small())

    script = "return cy.edges().map((wire) => wire.target().position('x') - wire.source().position('x'))"
    assert min(browser.run(script)) > 100


def test_a_click_on_a_task_shows_what_is_known_of_it_and_leads_to_what_it_requires(opened):
    sections = [
        Section("Why", (("", "a.csv does not exist"),)),
        Section("Parameters", (("x", "1"),)),
        Section("Record", (("host", "h"),), is_folded=True),
    ]
    browser = opened(small(), lambda node: sections if node.key == "top" else [])

    click_box(browser, "↻ Top")

    shown = browser.text("#panel")
    assert "Top(x=1)" in shown
    assert "↻ stale is out of date" in shown
    assert "a.csv does not exist" in shown
    assert "host" not in shown
    browser.click("#panel summary")
    assert "host" in browser.text("#panel")
    browser.click("#panel .tasks button")
    assert browser.text("#panel h2") == "Day(n=0)"
    assert "Required by 1" in browser.text("#panel")
    press(browser, ESCAPE)
    assert browser.run("return document.getElementById('panel').hidden")


def test_the_keys_lead_to_the_search_and_from_box_to_box(opened):
    browser = opened(small())

    press(browser, "/", "raw(n=1")
    assert browser.text("#panel h2") == "1 found"
    assert browser.run("return cy.nodes('.found').map((box) => box.id())") == ["t1"]
    press(browser, ENTER)
    assert browser.run("return choice.selected") == "t1"
    press(browser, ESCAPE)
    assert browser.run("return [document.getElementById('search').value, cy.nodes('.dimmed').length]") == ["", 0]
    press(browser, LEFT)
    assert browser.text("#panel h2") == "Top(x=1)"
    press(browser, LEFT)
    assert browser.text("#panel h2").startswith("Day(n=")


def test_filters_take_states_and_families_away_and_bring_them_back(opened):
    browser = opened(small())

    browser.click("#states input")
    assert boxes(browser) == ["○ Day n=0", "○ Day n=1", "✓ Raw n=0", "✓ Raw n=1"]
    assert browser.text("#told").startswith("4 of 5 tasks")
    browser.click("#states input")
    browser.click("#families input")
    assert "○ Day n=0" not in boxes(browser)
    browser.click("#families input")
    assert len(boxes(browser)) == 5


def test_tasks_of_one_family_are_one_box_that_is_opened_in_portions(opened):
    browser = opened(fan(5000))

    assert boxes(browser) == ["Day \N{MULTIPLICATION SIGN} 5,000 ○ 500   ✓ 4,500", "○ Top x=1"]
    click_box(browser, "Day")
    assert browser.run("return document.querySelectorAll('#panel .tasks li').length") == 101
    browser.click("#open")
    assert len(boxes(browser)) == 27
    assert "Day \N{MULTIPLICATION SIGN} 4,975" in "".join(boxes(browser))
    assert "○ Day n=0" in boxes(browser)
    browser.run("const all = document.querySelector('#panel input'); all.value = '(n=4321)'; all.oninput()")
    browser.click("#panel .tasks button")
    assert browser.text("#panel h2") == "Day(n=4321)"
    assert "✓ Day n=4321" in boxes(browser)
    browser.run("showGroup('Day')")
    browser.click("#close")
    assert len(boxes(browser)) == 2


def test_of_a_chain_of_one_family_the_neighbourhood_of_a_task_is_shown(opened):
    browser = opened(chain(10_000))

    assert boxes(browser) == ["Link \N{MULTIPLICATION SIGN} 10,000 ✓ 10,000"]
    assert browser.run("return cy.edges().length") == 1
    press(browser, "/", "n=5000", ENTER)
    assert len(boxes(browser)) == 2
    browser.click("#panel .actions button")
    assert boxes(browser) == ["✓ Link n=4999", "✓ Link n=5000", "✓ Link n=5001"]
    assert browser.run("return cy.elements('.dimmed').length") == 0
    browser.run("document.querySelector('#panel select').value = '5'")
    browser.click("#panel .actions button")
    assert len(boxes(browser)) == 11
    assert browser.run("return document.querySelector('#panel select').value") == "5"
    browser.click("#whole")
    assert len(boxes(browser)) == 2


def test_what_is_too_much_to_lay_out_is_left_out_and_said(opened):
    browser = opened(tangled(1000))

    assert 30 < len(boxes(browser)) <= 200
    assert "farther away are not drawn" in browser.text("#told")
    press(browser, "/", "family250(", ENTER)
    assert browser.run("return choice.selected") in browser.run("return cy.nodes().map((box) => box.id())")


def test_a_notebook_shows_the_page_in_a_frame(browser, tmp_path):
    graph = task_graph.graph(External("raw.csv"))
    path = tmp_path / "notebook.html"
    path.write_text(f"<!DOCTYPE html><meta charset='utf-8'>{graph._repr_html_()}", encoding="utf-8")

    browser.open(path)
    browser.driver.switch_to.frame(0)
    shown = boxes(browser)
    browser.driver.switch_to.default_content()

    assert shown == ["✗ External path=raw.csv"]
    assert (browser.problems(), browser.requests()) == ([], [])


def test_in_a_narrow_window_there_is_room_for_the_filters_and_then_for_the_details(browser, opened):
    size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        opened(small())
        heights = "return ['nav', '#picture', '#panel'].map((part) => document.querySelector(part).offsetHeight)"

        filters, picture, _ = browser.run(heights)
        lowest = browser.run("return cy.elements().renderedBoundingBox().y2")
        lines = browser.run("return document.querySelector('nav').scrollHeight")
        click_box(browser, "↻ Top")
        settle(browser)
        none, picture_beside, details = browser.run(heights)
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    assert filters + 1 >= lines
    assert picture > max(300, lowest)
    assert none == 0
    assert picture_beside > 200
    assert details > 150


def test_light_and_dark_are_two_pictures_and_neither_is_blank(opened):
    script = "return [getComputedStyle(document.body).backgroundColor, cy.nodes()[0].style('background-color')]"

    pictures, blanks, colours = [], [], []
    for dark in (False, True):
        browser = opened(small(), dark=dark)
        pictures.append(browser.picture())
        colours.append(browser.run(script))
        browser.run("cy.elements().remove()")
        settle(browser)
        blanks.append(browser.picture())

    assert len({*pictures, *blanks}) == 4
    assert all(len(picture) > len(blank) + 3000 for picture, blank in zip(pictures, blanks, strict=True))
    assert colours[0][0] != colours[1][0]
    assert colours[0][1] != colours[1][1]


def test_hostile_names_are_shown_as_text_and_do_nothing(opened):
    looks = {HOSTILE: Look("✓", Tone.GOOD, HOSTILE)}
    upstream = Node(f"{HOSTILE}1", f"{HOSTILE}(n={HOSTILE})", HOSTILE, HOSTILE, (), HOSTILE)
    top = Node(HOSTILE, HOSTILE, HOSTILE, HOSTILE, (Edge(upstream.key, HOSTILE),), HOSTILE)
    graph = Graph(HOSTILE, (top.key,), (upstream, top), looks)
    browser = opened(graph, lambda node: [Section(HOSTILE, ((HOSTILE, HOSTILE), ("", "x" * 10_000_000)))])

    browser.run("select(boxOf.get(1).id)")
    press(browser, "/", "script")

    assert browser.run("return window.harmed") is None
    assert browser.run("return document.querySelectorAll('img, script[src]').length") == 0
    press(browser, ESCAPE)
    browser.run("select(boxOf.get(1).id)")
    assert "</script><script>window.harmed = 1</script>" in browser.text("#panel")
    assert "\\u202e\\ud800" in browser.text("#panel")
    assert len(browser.driver.page_source) < 2_000_000

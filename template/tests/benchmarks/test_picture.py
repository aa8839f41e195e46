"""The picture is one, and has everything in it."""

from xml.etree import ElementTree

from benchmarks.client import Answer
from benchmarks.measure import Outage, Route
from benchmarks.picture import draw

SVG = "{http://www.w3.org/2000/svg}"


def test_every_route_and_every_request_is_drawn() -> None:
    routes = [Route("/a/{b}", 0.01, 0.02, 0.001, 1, 2), Route("/<&>", 0.3, 0.3, 0.3, 1, 1)]
    answers = [Answer(0.0, 0.001, 200), Answer(1.0, 0.05, 200), Answer(2.0, 5.0, 0)]
    drawn = ElementTree.fromstring(draw(routes, Outage(answers, (0.5, 1.0), (1.5, 2.0))))

    words = [text.text for text in drawn.iter(f"{SVG}text")]
    assert {"GET /a/{b}", "GET /<&>", "frozen", "killed"} <= set(words)
    width, height = map(float, drawn.attrib["viewBox"].split()[2:])
    circles = list(drawn.iter(f"{SVG}circle"))
    assert len(circles) == 3
    assert [circle.attrib["fill"] for circle in circles].count("#c5221f") == 1
    for shape in (*circles, *drawn.iter(f"{SVG}rect")):
        assert 0 <= float(shape.attrib.get("cx", shape.attrib.get("x", 0))) <= width
        assert 0 <= float(shape.attrib.get("cy", shape.attrib.get("y", 0))) <= height

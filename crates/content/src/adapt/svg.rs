//! SVG, drawn here so that no device has to run one: without scripts, other files, fonts of the machine, or animation.
//!
//! A small drawing can ask for a great deal of work (a shape used ten times by a shape used ten times, a marker at each of a million
//! points), so that its cost is reckoned before it is drawn, first from its elements, then from its shapes. What is over the budget,
//! or has something whose cost is hard to reckon (filters, patterns), is not drawn.

use std::collections::HashMap;

use image::{DynamicImage, RgbaImage};
use resvg::{
    tiny_skia::{Pixmap, Transform},
    usvg::{
        Group, ImageHrefResolver, Node, Options, Path, Tree,
        roxmltree::{self, Document, NodeId, ParsingOptions},
    },
};

use super::image::Fault;
use crate::Class;

/// Most nodes of a document.
const MAX_NODES: u32 = 50_000;
/// Deepest nesting of elements.
const MAX_DEPTH: usize = 64;
/// Most elements once everything that is used again is counted again.
const MAX_WEIGHT: u64 = 100_000;
/// Longest style sheet in bytes: each rule is held against each element.
const MAX_STYLE: usize = 32 * 1024;
/// Most pixels of the drawing.
const MAX_CANVAS: f32 = 2_000_000.0;
/// Most pixels that are painted, one above the other.
const MAX_PAINTED: f64 = 400_000_000.0;
/// Pixels that a segment of a path counts for.
const SEGMENT: f64 = 16.0;
/// Most pixels of layers that are open at one time.
const MAX_LAYERS: f64 = 32_000_000.0;
/// Farthest from the drawing's corner that a path reaches, in pixels: beyond, the rasteriser's numbers overflow.
const FARTHEST: f64 = 1_000_000.0;
/// Most groups and paths that are drawn.
const MAX_DRAWN: usize = 100_000;

const BROKEN: Fault = "the drawing is damaged";
const COSTLY: Fault = "the drawing is too costly to draw";
const WORDS: Fault = "the drawing has text, which is not drawn here";

/// Draws it to fit the screen.
pub(super) fn draw(text: &str, class: &Class) -> Result<DynamicImage, Fault> {
    let document = parse(text).ok_or(BROKEN)?;
    reckon_document(&document)?;
    if texts(&document).next().is_some() {
        return Err(WORDS);
    }
    // Links to images are not followed, and embedded ones not decoded.
    let options = Options {
        resources_dir: None,
        image_href_resolver: ImageHrefResolver {
            resolve_data: Box::new(|_, _, _| None),
            resolve_string: Box::new(|_, _| None),
        },
        ..Options::default()
    };
    let tree = Tree::from_xmltree(&document, &options).map_err(|_| BROKEN)?;
    if !tree.filters().is_empty() || !tree.patterns().is_empty() {
        return Err(COSTLY);
    }
    let (width, height) = (tree.size().width(), tree.size().height());
    let scale = scale(width, height, class);
    let canvas = Canvas {
        width: f64::from(width * scale),
        height: f64::from(height * scale),
        scale: f64::from(scale),
    };
    let mut cost = Cost::default();
    cost.group(tree.root(), &canvas, 0.0)?;
    render(&tree, scale).ok_or(BROKEN)
}

/// What is said in a drawing, for those that do not see it: its title, its description, its words.
pub(super) fn words(text: &str) -> Vec<String> {
    const MOST: usize = 100;
    let Some(document) = parse(text) else {
        return Vec::new();
    };
    let mut words: Vec<String> = texts(&document)
        .map(|node| super::text::line(&inner_text(node), 200))
        .filter(|line| !line.is_empty())
        .take(MOST)
        .collect();
    let titles = document
        .descendants()
        .filter(|n| matches!(n.tag_name().name(), "title" | "desc"));
    let titles = titles
        .map(|node| super::text::line(&inner_text(node), 200))
        .filter(|line| !line.is_empty());
    words.splice(0..0, titles.take(4));
    words
}

fn parse(text: &str) -> Option<Document<'_>> {
    // Entities can make a text of any size out of a small one.
    if text.contains("<!ENTITY") {
        return None;
    }
    let options = ParsingOptions {
        allow_dtd: true,
        nodes_limit: MAX_NODES,
        entity_resolver: None,
    };
    Document::parse_with_options(text, options).ok()
}

fn texts<'a, 'input>(document: &'a Document<'input>) -> impl Iterator<Item = roxmltree::Node<'a, 'input>> {
    document.descendants().filter(|n| {
        n.tag_name().name() == "text"
            && n.descendants()
                .any(|n| n.text().is_some_and(|t| !t.trim().is_empty()))
    })
}

fn inner_text(node: roxmltree::Node<'_, '_>) -> String {
    let texts = node
        .descendants()
        .filter(|n| n.is_text())
        .filter_map(|n| n.text());
    texts.take(64).collect::<Vec<_>>().join(" ")
}

/// Holds the elements against the limits.
fn reckon_document(document: &Document<'_>) -> Result<(), Fault> {
    let mut points = 0;
    let mut ids = HashMap::new();
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        if node.ancestors().take(MAX_DEPTH + 2).count() > MAX_DEPTH {
            return Err(COSTLY);
        }
        if let Some(id) = node.attribute("id") {
            ids.entry(id).or_insert(node);
        }
        if node.tag_name().name() == "style" {
            let style = inner_text(node);
            if style.len() > MAX_STYLE || style.contains("url(") {
                return Err(COSTLY);
            }
        }
        let data = [node.attribute("d"), node.attribute("points")];
        points += data
            .iter()
            .flatten()
            .map(|text| text.len() as u64 / 4)
            .sum::<u64>();
    }
    let mut weights = Weights {
        ids,
        known: HashMap::new(),
        points,
    };
    match weights.of(document.root(), 0) <= MAX_WEIGHT {
        true => Ok(()),
        false => Err(COSTLY),
    }
}

/// Reckons how many elements an element stands for.
struct Weights<'a, 'input> {
    ids: HashMap<&'a str, roxmltree::Node<'a, 'input>>,
    /// Zero while it is being reckoned, so that a circle ends.
    known: HashMap<NodeId, u64>,
    /// Of all paths: at each a marker may stand.
    points: u64,
}

impl<'a, 'input> Weights<'a, 'input> {
    fn of(&mut self, node: roxmltree::Node<'a, 'input>, depth: usize) -> u64 {
        // References and nesting together; what leads deeper counts as too much.
        if depth > 4 * MAX_DEPTH {
            return u64::MAX;
        }
        if let Some(known) = self.known.get(&node.id()) {
            return *known;
        }
        self.known.insert(node.id(), 0);
        let mut weight: u64 = 1;
        for child in node.children().filter(roxmltree::Node::is_element) {
            weight = weight.saturating_add(self.of(child, depth + 1));
        }
        for attribute in node.attributes() {
            let value = attribute.value();
            let target = match attribute.name() {
                "href" => value.strip_prefix('#').and_then(|id| self.ids.get(id).copied()),
                _ => None,
            };
            if let Some(target) = target {
                weight = weight.saturating_add(self.of(target, depth + 1));
            }
            // At every point of a path, at worst.
            let times = if value.contains("marker") || attribute.name().starts_with("marker") {
                self.points
            } else {
                1
            };
            for id in value.split("url(").skip(1).map(name_in) {
                if let Some(target) = self.ids.get(id).copied() {
                    let more = self.of(target, depth + 1).saturating_mul(times);
                    weight = weight.saturating_add(more);
                }
            }
        }
        self.known.insert(node.id(), weight);
        weight
    }
}

/// The name in `url(#name)`, of what is behind the bracket.
fn name_in(reference: &str) -> &str {
    let end = reference.find(')').unwrap_or(reference.len());
    reference[..end]
        .trim()
        .trim_matches(['"', '\''])
        .trim_start_matches('#')
}

fn scale(width: f32, height: f32, class: &Class) -> f32 {
    let (screen_width, screen_height) = class.screen();
    #[allow(clippy::cast_precision_loss, reason = "at most 4096")]
    let by_screen = (screen_width as f32 / width).min(screen_height as f32 / height);
    let by_area = (MAX_CANVAS / (width * height)).sqrt();
    // Small drawings are enlarged a little, for there is nothing to lose.
    by_screen.min(by_area).min(2.0)
}

struct Canvas {
    width: f64,
    height: f64,
    scale: f64,
}

impl Canvas {
    fn area(&self) -> f64 {
        self.width * self.height
    }

    /// Pixels of a box that may lie on the canvas, or `around` it as far as layers reach.
    fn painted(&self, width: f32, height: f32, around: f64) -> f64 {
        let edge = |length: f32, limit: f64| (f64::from(length) * self.scale).clamp(1.0, limit * around);
        edge(width, self.width) * edge(height, self.height)
    }
}

#[derive(Default)]
struct Cost {
    painted: f64,
    drawn: usize,
}

impl Cost {
    fn group(&mut self, group: &Group, canvas: &Canvas, layers: f64) -> Result<(), Fault> {
        // A layer reaches up to two canvases beyond each edge.
        const AROUND: f64 = 5.0;
        let mut layers = layers;
        if group.should_isolate() {
            let bounds = group.abs_layer_bounding_box();
            let layer = canvas.painted(bounds.width(), bounds.height(), AROUND);
            layers += layer;
            self.painted += 2.0 * layer;
        }
        self.count(layers)?;
        let mut clip = group.clip_path();
        while let Some(path) = clip {
            self.painted += canvas.area();
            self.group(path.root(), canvas, layers + canvas.area())?;
            clip = path.clip_path();
        }
        let mut mask = group.mask();
        while let Some(inner) = mask {
            self.painted += canvas.area();
            self.group(inner.root(), canvas, layers + canvas.area() * AROUND)?;
            mask = inner.mask();
        }
        for child in group.children() {
            match child {
                Node::Group(group) => self.group(group, canvas, layers)?,
                Node::Path(path) => self.path(path, canvas)?,
                Node::Image(_) | Node::Text(_) => {}
            }
        }
        self.count(layers)
    }

    fn path(&mut self, path: &Path, canvas: &Canvas) -> Result<(), Fault> {
        /// tiny-skia makes no more dashes of a path.
        const MAX_DASHES: f64 = 1_000_000.0;
        let bounds = path.abs_stroke_bounding_box();
        let reach = [bounds.left(), bounds.top(), bounds.right(), bounds.bottom()];
        if reach
            .iter()
            .any(|edge| f64::from(edge.abs()) * canvas.scale > FARTHEST)
        {
            return Err(COSTLY);
        }
        let segments = path.data().len() as f64;
        self.painted += canvas.painted(bounds.width(), bounds.height(), 1.0) + segments * SEGMENT;
        if let Some(dashes) = path.stroke().and_then(|stroke| stroke.dasharray()) {
            let period = f64::from(dashes.iter().sum::<f32>()).max(1e-6) / dashes.len().max(1) as f64;
            let bounds = path.data().bounds();
            let longest = f64::from(bounds.width()) + f64::from(bounds.height());
            self.painted += SEGMENT * (segments * longest / period).min(MAX_DASHES);
        }
        self.count(0.0)
    }

    fn count(&mut self, layers: f64) -> Result<(), Fault> {
        self.drawn += 1;
        let within = self.painted <= MAX_PAINTED && layers <= MAX_LAYERS && self.drawn <= MAX_DRAWN;
        within.then_some(()).ok_or(COSTLY)
    }
}

fn render(tree: &Tree, scale: f32) -> Option<DynamicImage> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most MAX_CANVAS"
    )]
    let edge = |length: f32| ((length * scale).ceil() as u32).max(1);
    let (width, height) = (edge(tree.size().width()), edge(tree.size().height()));
    let mut pixmap = Pixmap::new(width, height)?;
    resvg::render(tree, Transform::from_scale(scale, scale), &mut pixmap.as_mut());
    let pixels = pixmap.pixels().iter().flat_map(|pixel| {
        let colour = pixel.demultiply();
        [colour.red(), colour.green(), colour.blue(), colour.alpha()]
    });
    RgbaImage::from_raw(width, height, pixels.collect()).map(DynamicImage::ImageRgba8)
}

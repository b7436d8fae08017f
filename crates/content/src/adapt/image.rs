//! Images: decoded within limits, turned upright, scaled to the screen, and encoded anew. What else was in the file (place, camera,
//! preview, bytes behind its end) stays behind.

use std::io::Cursor;

use image::{
    DynamicImage, GenericImageView, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage,
    codecs::{
        jpeg::JpegEncoder,
        png::{CompressionType, FilterType, PngEncoder},
        webp::WebPEncoder,
    },
    imageops,
};

use crate::Class;

/// Largest image in pixels, before it is scaled.
pub const MAX_PIXELS: u64 = 25_000_000;
/// Largest width or height in pixels, before it is scaled.
pub const MAX_EDGE: u32 = 16_384;
/// Most bytes that decoding may take, as far as the decoder counts them.
pub const MAX_ALLOC: u64 = 192 * 1024 * 1024;

/// Formats that are read.
const FORMATS: [ImageFormat; 4] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::Gif,
    ImageFormat::WebP,
];
/// Tries until the encoded image is small enough.
const TRIES: usize = 8;
/// What each try scales the image by, in percent.
const STEP: u32 = 70;
/// Smallest edge that is tried, in pixels.
const MIN_EDGE: u32 = 16;
/// JPEG's quality, and that when data is to be saved.
const QUALITY: (u8, u8) = (82, 60);
/// Images with at most so many colours (drawings, screens) are better as PNG.
const FEW_COLOURS: usize = 256;

/// An image that is ready to go.
pub(super) struct Encoded {
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
    /// It has fewer pixels than the original.
    pub(super) scaled: bool,
}

/// Why an image cannot be shown, in words for its user.
pub(super) type Fault = &'static str;

const BROKEN: Fault = "the image is damaged";
const UNKNOWN: Fault = "the image is of no known format";
const LARGE: Fault = "the image has too many pixels";
const UNFIT: Fault = "the image cannot be made small enough for this device";

/// Width and height, as far as they can be told without decoding it.
pub(super) fn size(data: &[u8]) -> Option<(u32, u32)> {
    reader(data).ok()?.into_dimensions().ok()
}

/// Decodes an image and makes it fit.
pub(super) fn fit(data: &[u8], class: &Class, max: usize) -> Result<Encoded, Fault> {
    let image = decode(data)?;
    encode(&image, class, max)
}

fn reader(data: &[u8]) -> Result<ImageReader<Cursor<&[u8]>>, Fault> {
    let mut reader = ImageReader::new(Cursor::new(data))
        .with_guessed_format()
        .map_err(|_| BROKEN)?;
    if !reader.format().is_some_and(|format| FORMATS.contains(&format)) {
        return Err(UNKNOWN);
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_ALLOC);
    limits.max_image_width = Some(MAX_EDGE);
    limits.max_image_height = Some(MAX_EDGE);
    reader.limits(limits);
    Ok(reader)
}

fn decode(data: &[u8]) -> Result<DynamicImage, Fault> {
    let fault = |error: image::ImageError| match error {
        image::ImageError::Limits(_) => LARGE,
        _ => BROKEN,
    };
    let mut decoder = reader(data)?.into_decoder().map_err(fault)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS || decoder.total_bytes() > MAX_ALLOC {
        return Err(LARGE);
    }
    let orientation = decoder.orientation().ok();
    let image = DynamicImage::from_decoder(decoder).map_err(fault)?;
    // Turned after scaling would be cheaper, but the screen's edges would have to be swapped with it.
    let mut image = match image.color().has_alpha() {
        true => DynamicImage::ImageRgba8(image.into_rgba8()),
        false => DynamicImage::ImageRgb8(image.into_rgb8()),
    };
    if let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    Ok(image)
}

/// Scales an image to the class's screen and encodes it in at most `max` bytes.
pub(super) fn encode(image: &DynamicImage, class: &Class, max: usize) -> Result<Encoded, Fault> {
    let (width, height) = image.dimensions();
    let (screen_width, screen_height) = class.screen();
    let mut fitted = match width > screen_width || height > screen_height {
        true => scaled(image, screen_width, screen_height),
        false => image.clone(),
    };
    let format = Format::of(&fitted, class).ok_or("this device shows no images")?;
    for _ in 0..TRIES {
        let body = format.encode(&fitted, class.saves_data()).ok_or(BROKEN)?;
        if body.len() <= max {
            return Ok(Encoded {
                content_type: format.content_type(),
                body,
                scaled: fitted.dimensions() != (width, height),
            });
        }
        let (width, height) = fitted.dimensions();
        if width.max(height) <= MIN_EDGE {
            break;
        }
        let smaller = |edge: u32| (edge * STEP / 100).max(1);
        fitted = scaled(&fitted, smaller(width), smaller(height));
    }
    Err(UNFIT)
}

/// Much smaller first by averaging, which takes no memory, then finely.
fn scaled(image: &DynamicImage, width: u32, height: u32) -> DynamicImage {
    let (from_width, from_height) = image.dimensions();
    match from_width / 3 > width || from_height / 3 > height {
        true => {
            image
                .thumbnail(width * 2, height * 2)
                .resize(width, height, imageops::FilterType::CatmullRom)
        }
        false => image.resize(width, height, imageops::FilterType::CatmullRom),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Jpeg,
    Png,
    WebP,
}

impl Format {
    /// The most welcome format of those that suit the image.
    fn of(image: &DynamicImage, class: &Class) -> Option<Self> {
        let drawn = image.color().has_alpha() && has_transparency(image) || has_few_colours(image);
        let order = match drawn {
            true => [Self::Png, Self::WebP, Self::Jpeg],
            false => [Self::Jpeg, Self::Png, Self::WebP],
        };
        // Of equals, the first.
        order
            .into_iter()
            .rev()
            .filter(|format| class.quality(format.content_type()) > 0)
            .max_by_key(|format| class.quality(format.content_type()))
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::WebP => "image/webp",
        }
    }

    fn encode(self, image: &DynamicImage, saving: bool) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Self::Jpeg => {
                let quality = if saving { QUALITY.1 } else { QUALITY.0 };
                on_white(image).write_with_encoder(JpegEncoder::new_with_quality(&mut out, quality))
            }
            Self::Png => {
                let encoder =
                    PngEncoder::new_with_quality(&mut out, CompressionType::Default, FilterType::Adaptive);
                image.write_with_encoder(encoder)
            }
            Self::WebP => image.write_with_encoder(WebPEncoder::new_lossless(&mut out)),
        }
        .ok()?;
        Some(out)
    }
}

fn has_transparency(image: &DynamicImage) -> bool {
    image
        .as_rgba8()
        .is_some_and(|rgba| rgba.pixels().any(|p| p.0[3] != 255))
}

fn has_few_colours(image: &DynamicImage) -> bool {
    let mut seen = std::collections::HashSet::new();
    image.pixels().all(|(_, _, pixel)| {
        seen.insert(pixel.0);
        seen.len() <= FEW_COLOURS
    })
}

/// JPEG has no transparency.
fn on_white(image: &DynamicImage) -> DynamicImage {
    let Some(rgba) = image.as_rgba8() else {
        return image.clone();
    };
    let mut flat = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in flat.pixels_mut().zip(rgba.pixels()) {
        let [r, g, b, a] = from.0.map(u32::from);
        let over = |c: u32| u8::try_from((c * a + 255 * (255 - a)) / 255).unwrap_or(u8::MAX);
        to.0 = [over(r), over(g), over(b)];
    }
    DynamicImage::ImageRgb8(flat)
}

//! Content negotiation: which format and which shape of object an `Accept` header asks for.

use proto::status::Status;

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    /// JSON with line breaks and two spaces per level.
    Indented,
    Yaml,
    Protobuf,
}

/// What is written: the objects themselves, their metadata, or table rows. The version is that of
/// the group meta.k8s.io.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Object,
    Table(&'static str),
    Partial(&'static str),
    PartialList(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub encoding: Encoding,
    pub shape: Shape,
}

pub const PLAIN: Wanted = Wanted { encoding: Encoding::Json, shape: Shape::Object };

/// What a resource can give beyond JSON and YAML of its objects and their metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// There are field numbers (custom resources have none).
    pub protobuf: bool,
    pub tables: bool,
}

pub const EVERYTHING: Offer = Offer { protobuf: true, tables: true };

/// What is offered, as 406 answers name it: of kinds with field numbers, of kinds without (custom
/// resources), and as a stream.
const OFFERED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const OFFERED_TEXT: &str = "application/json, application/yaml";
pub const OFFERED_STREAMS: &str = "application/json, application/vnd.kubernetes.protobuf";

/// One entry of an `Accept` header.
pub struct Media<'a> {
    /// `application/json`.
    pub name: &'a str,
    params: &'a str,
    quality: u16,
}

impl<'a> Media<'a> {
    /// The value of a parameter, without its quotes.
    pub fn param(&self, name: &str) -> Option<&'a str> {
        params(self.params).find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// The best form that `accept` allows; JSON where it says nothing.
pub fn negotiate(accept: Option<&str>, offer: Offer) -> Result<Wanted, Status> {
    let Some(accept) = accept.filter(|_| !is_plain(accept)) else { return Ok(PLAIN) };
    medias(accept)
        .iter()
        .find_map(|media| {
            let wanted = Wanted { encoding: encoding(media.name)?, shape: shape(media)? };
            let binary = wanted.encoding == Encoding::Protobuf;
            let possible = match wanted.shape {
                // Tables have no protobuf form.
                Shape::Table(_) => offer.tables && !binary,
                _ => offer.protobuf || !binary,
            };
            possible.then_some(wanted)
        })
        .ok_or_else(|| Status::not_acceptable(if offer.protobuf { OFFERED } else { OFFERED_TEXT }))
}

/// Whether it asks for JSON, in the few ways in which most do.
pub fn is_plain(accept: Option<&str>) -> bool {
    accept.is_none_or(|accept| matches!(accept.trim(), "" | "application/json" | "*/*"))
}

/// The entries of a header, best first.
pub fn medias(header: &str) -> Vec<Media<'_>> {
    let mut medias: Vec<Media> = header
        .split(',')
        .map(|entry| {
            let (name, params) = entry.split_once(';').unwrap_or((entry, ""));
            let mut media = Media { name: name.trim(), params, quality: 1000 };
            let quality = media.param("q").and_then(|q| q.parse::<f32>().ok());
            media.quality = quality.map_or(1000, |quality| (quality * 1000.0) as u16);
            media
        })
        .filter(|media| !media.name.is_empty() && media.quality > 0)
        .collect();
    medias.sort_by_key(|media| std::cmp::Reverse(media.quality)); // stable: the order breaks ties
    medias
}

fn params(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(';').filter_map(|param| {
        let (key, value) = param.split_once('=')?;
        Some((key.trim(), value.trim().trim_matches('"')))
    })
}

fn encoding(name: &str) -> Option<Encoding> {
    match name {
        "application/json" | "*/*" | "application/*" => Some(Encoding::Json),
        "application/yaml" => Some(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Some(Encoding::Protobuf),
        _ => None,
    }
}

fn shape(media: &Media) -> Option<Shape> {
    let Some(kind) = media.param("as") else { return Some(Shape::Object) };
    if media.param("g") != Some("meta.k8s.io") {
        return None;
    }
    let version = match media.param("v")? {
        "v1" => "v1",
        "v1beta1" => "v1beta1",
        _ => return None,
    };
    match kind {
        "Table" => Some(Shape::Table(version)),
        "PartialObjectMetadata" => Some(Shape::Partial(version)),
        "PartialObjectMetadataList" => Some(Shape::PartialList(version)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_that_is_allowed() {
        let wanted = |encoding, shape| Some(Wanted { encoding, shape });
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,\
                       application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;\
                        g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;\
                        g=meta.k8s.io;v=v1,application/json";
        let cases = [
            ("", Some(PLAIN)),
            ("*/*", Some(PLAIN)),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                wanted(Encoding::Protobuf, Shape::Object),
            ),
            (
                "application/vnd.kubernetes.protobuf;stream=watch",
                wanted(Encoding::Protobuf, Shape::Object),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
                Some(PLAIN),
            ),
            (kubectl, wanted(Encoding::Json, Shape::Table("v1"))),
            (metadata, wanted(Encoding::Protobuf, Shape::PartialList("v1"))),
            ("application/yaml", wanted(Encoding::Yaml, Shape::Object)),
            ("application/json;q=0.5,application/yaml", wanted(Encoding::Yaml, Shape::Object)),
            ("application/json;as=Table;v=v2;g=meta.k8s.io", None),
            ("text/html", None),
        ];
        for (accept, expected) in cases {
            assert_eq!(negotiate(Some(accept), EVERYTHING).ok(), expected, "{accept}");
        }
        let no_tables = Offer { tables: false, ..EVERYTHING };
        assert_eq!(negotiate(Some(kubectl), no_tables).unwrap(), PLAIN);
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(negotiate(Some(table), no_tables).unwrap_err().code, 406);
        let text = Offer { protobuf: false, ..EVERYTHING };
        let binary = "application/vnd.kubernetes.protobuf";
        assert_eq!(
            negotiate(Some(binary), text).unwrap_err().message,
            "only the following media types are accepted: application/json, application/yaml"
        );
        let both = format!("{binary},application/json");
        assert_eq!(negotiate(Some(&both), text).unwrap(), PLAIN);
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_answered_or_refused(header in "[a-z/*;=,.\"q0-9 é-]{0,60}") {
            let qualities: Vec<u16> = medias(&header).iter().map(|media| media.quality).collect();
            proptest::prop_assert!(qualities.is_sorted_by(|a, b| a >= b));
            let code = negotiate(Some(&header), EVERYTHING).err().map(|status| status.code);
            proptest::prop_assert!(matches!(code, None | Some(406)));
        }
    }
}

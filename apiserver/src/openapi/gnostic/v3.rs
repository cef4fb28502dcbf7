//! The field numbers of openapi.v3.Document.

use super::{As, Message};

pub(super) static DOCUMENT: Message = Message {
    fields: &[
        ("openapi", 1, As::Text),
        ("info", 2, As::One { wrapped: &[], message: &INFO }),
        ("paths", 4, As::Named { number: 1, wrapped: &[], message: &PATH_ITEM }),
        ("components", 5, As::One { wrapped: &[], message: &COMPONENTS }),
    ],
    extensions: 9,
    union: false,
};

static INFO: Message = Message {
    fields: &[("title", 1, As::Text), ("version", 6, As::Text)],
    extensions: 7,
    union: false,
};

static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 4, As::One { wrapped: &[], message: &OPERATION }),
        ("put", 5, As::One { wrapped: &[], message: &OPERATION }),
        ("post", 6, As::One { wrapped: &[], message: &OPERATION }),
        ("delete", 7, As::One { wrapped: &[], message: &OPERATION }),
        ("options", 8, As::One { wrapped: &[], message: &OPERATION }),
        ("head", 9, As::One { wrapped: &[], message: &OPERATION }),
        ("patch", 10, As::One { wrapped: &[], message: &OPERATION }),
        ("parameters", 13, As::Many(&PARAMETER)),
    ],
    extensions: 14,
    union: false,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, As::Texts),
        ("description", 3, As::Text),
        ("operationId", 5, As::Text),
        ("parameters", 6, As::Many(&PARAMETER)),
        ("requestBody", 7, As::One { wrapped: &[], message: &REQUEST_BODY }),
        ("responses", 8, As::Named { number: 2, wrapped: &[], message: &RESPONSE }),
    ],
    extensions: 13,
    union: false,
};

static PARAMETER: Message = Message {
    fields: &[
        ("name", 1, As::Text),
        ("in", 2, As::Text),
        ("description", 3, As::Text),
        ("required", 4, As::Bool),
        ("schema", 10, As::One { wrapped: &[], message: &SCHEMA }),
    ],
    extensions: 14,
    union: true,
};

static REQUEST_BODY: Message = Message {
    fields: &[("content", 2, As::Named { number: 1, wrapped: &[], message: &MEDIA_TYPE })],
    extensions: 4,
    union: true,
};

static RESPONSE: Message = Message {
    fields: &[
        ("description", 1, As::Text),
        ("content", 3, As::Named { number: 1, wrapped: &[], message: &MEDIA_TYPE }),
    ],
    extensions: 5,
    union: true,
};

static MEDIA_TYPE: Message = Message {
    fields: &[("schema", 1, As::One { wrapped: &[], message: &SCHEMA })],
    extensions: 5,
    union: false,
};

static COMPONENTS: Message = Message {
    fields: &[
        ("schemas", 1, As::Named { number: 1, wrapped: &[], message: &SCHEMA }),
        ("securitySchemes", 7, As::Named { number: 1, wrapped: &[], message: &SECURITY_SCHEME }),
    ],
    extensions: 10,
    union: false,
};

static SECURITY_SCHEME: Message = Message {
    fields: &[
        ("type", 1, As::Text),
        ("description", 2, As::Text),
        ("name", 3, As::Text),
        ("in", 4, As::Text),
    ],
    extensions: 9,
    union: true,
};

static SCHEMA: Message = Message {
    fields: &[
        ("uniqueItems", 20, As::Bool),
        ("required", 23, As::Texts),
        ("enum", 24, As::Anys),
        ("type", 25, As::Text),
        ("allOf", 26, As::Many(&SCHEMA)),
        ("oneOf", 27, As::Many(&SCHEMA)),
        ("items", 30, As::One { wrapped: &[1], message: &SCHEMA }),
        ("properties", 31, As::Named { number: 1, wrapped: &[], message: &SCHEMA }),
        ("additionalProperties", 32, As::One { wrapped: &[1], message: &SCHEMA }),
        ("default", 33, As::Default),
        ("description", 34, As::Text),
        ("format", 35, As::Text),
    ],
    extensions: 36,
    union: true,
};

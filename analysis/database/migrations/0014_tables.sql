-- The tables of schema version 14, the oldest that is migrated.

CREATE TABLE meta (schema_version INTEGER NOT NULL, bandlens VARCHAR NOT NULL, created TIMESTAMPTZ NOT NULL DEFAULT now());

CREATE SEQUENCE id;

CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY DEFAULT nextval('id'),
    name VARCHAR NOT NULL,
    category VARCHAR NOT NULL,
    architecture VARCHAR NOT NULL,
    weights_sha256 VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    normalization VARCHAR NOT NULL,
    classes INTEGER NOT NULL,
    head JSON,
    model_sha256 VARCHAR NOT NULL UNIQUE
);

CREATE TABLE image_set (
    id INTEGER PRIMARY KEY DEFAULT nextval('id'),
    name VARCHAR NOT NULL,
    benchmark VARCHAR NOT NULL,
    corruption VARCHAR,
    severity INTEGER,
    digest VARCHAR NOT NULL UNIQUE,
    count INTEGER NOT NULL,
    size INTEGER NOT NULL,
    own_cycles DOUBLE,
    clusters INTEGER NOT NULL,
    preprocessing VARCHAR NOT NULL,
    labelled BOOLEAN NOT NULL,
    scheme VARCHAR,
    decision_space VARCHAR NOT NULL
);

CREATE TABLE image (image_set INTEGER NOT NULL, image_index UINTEGER NOT NULL, path VARCHAR NOT NULL, cluster UINTEGER NOT NULL);

CREATE TABLE label (image_set INTEGER NOT NULL, scheme VARCHAR NOT NULL, image_index UINTEGER NOT NULL, class USMALLINT NOT NULL);

CREATE TABLE image_attribute (
    image_set INTEGER NOT NULL,
    image_index UINTEGER NOT NULL,
    name VARCHAR NOT NULL,
    value VARCHAR NOT NULL
);

CREATE TABLE class_name (
    decision_space VARCHAR NOT NULL,
    class USMALLINT NOT NULL,
    name VARCHAR NOT NULL,
    PRIMARY KEY (decision_space, class)
);

CREATE TABLE own_class_name (
    image_set INTEGER NOT NULL,
    class USMALLINT NOT NULL,
    name VARCHAR NOT NULL,
    PRIMARY KEY (image_set, class)
);

CREATE TABLE condition (
    id INTEGER PRIMARY KEY DEFAULT nextval('id'),
    probe VARCHAR NOT NULL,
    parameters JSON NOT NULL,
    cutoff DOUBLE,
    frequency INTEGER,
    noise_sd DOUBLE,
    setting VARCHAR NOT NULL,
    series VARCHAR NOT NULL,
    x DOUBLE,
    x_title VARCHAR,
    y DOUBLE,
    y_title VARCHAR,
    mirrored BOOLEAN NOT NULL,
    cycles_per_pixel DOUBLE,
    cuts BOOLEAN NOT NULL,
    attack BOOLEAN NOT NULL,
    digest VARCHAR NOT NULL UNIQUE
);

CREATE TABLE session (
    id INTEGER PRIMARY KEY DEFAULT nextval('id'),
    engine VARCHAR NOT NULL,
    precision VARCHAR NOT NULL,
    device VARCHAR NOT NULL,
    batch INTEGER NOT NULL,
    threads INTEGER NOT NULL,
    versions JSON NOT NULL,
    model_sha256 VARCHAR NOT NULL,
    onnx_sha256 VARCHAR NOT NULL,
    card JSON,
    UNIQUE (engine, precision, device, batch, threads, versions, model_sha256, onnx_sha256)
);

CREATE TABLE study (
    id INTEGER PRIMARY KEY DEFAULT nextval('id'),
    name VARCHAR NOT NULL,
    version INTEGER NOT NULL,
    toml VARCHAR NOT NULL,
    digest VARCHAR NOT NULL,
    first_run TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_run TIMESTAMPTZ NOT NULL DEFAULT now(),
    host VARCHAR NOT NULL,
    bandlens VARCHAR NOT NULL,
    UNIQUE (name, version)
);

CREATE TABLE cell (
    id INTEGER PRIMARY KEY DEFAULT nextval('id'),
    key VARCHAR NOT NULL UNIQUE,
    checkpoint INTEGER NOT NULL,
    image_set INTEGER NOT NULL,
    condition INTEGER NOT NULL,
    engine VARCHAR NOT NULL,
    precision VARCHAR NOT NULL,
    onnx_sha256 VARCHAR NOT NULL,
    decision_space VARCHAR NOT NULL,
    seed BIGINT NOT NULL,
    complete BOOLEAN NOT NULL DEFAULT false,
    error VARCHAR
);

CREATE TABLE study_cell (study INTEGER NOT NULL, cell INTEGER NOT NULL);

CREATE TABLE study_checkpoint (
    study INTEGER NOT NULL,
    checkpoint INTEGER NOT NULL,
    name VARCHAR NOT NULL,
    category VARCHAR NOT NULL,
    PRIMARY KEY (study, checkpoint),
    UNIQUE (study, name)
);

CREATE TABLE study_image_set (
    study INTEGER NOT NULL,
    image_set INTEGER NOT NULL,
    name VARCHAR NOT NULL,
    benchmark VARCHAR NOT NULL,
    corruption VARCHAR,
    severity INTEGER,
    PRIMARY KEY (study, image_set),
    UNIQUE (study, name)
);

CREATE TABLE part (
    cell INTEGER NOT NULL,
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
    session INTEGER NOT NULL,
    seconds DOUBLE NOT NULL,
    right1 INTEGER,
    right5 INTEGER,
    committed TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE prediction (
    cell INTEGER NOT NULL USING COMPRESSION rle,
    image_index UINTEGER NOT NULL USING COMPRESSION bitpacking,
    predicted USMALLINT NOT NULL USING COMPRESSION bitpacking,
    label_rank USMALLINT USING COMPRESSION bitpacking,
    confidence REAL,
    best_rank USMALLINT USING COMPRESSION bitpacking,
    label_probability REAL USING COMPRESSION uncompressed
);

CREATE TABLE measure_value (
    study INTEGER NOT NULL,
    checkpoint INTEGER NOT NULL,
    image_set INTEGER,
    condition INTEGER,
    metric VARCHAR NOT NULL,
    n BIGINT,
    value DOUBLE,
    low DOUBLE,
    high DOUBLE,
    difference DOUBLE,
    difference_low DOUBLE,
    difference_high DOUBLE,
    state VARCHAR NOT NULL,
    note VARCHAR
);

CREATE TABLE own_measure (
    study INTEGER NOT NULL,
    name VARCHAR NOT NULL,
    title VARCHAR NOT NULL,
    unit VARCHAR NOT NULL,
    digest VARCHAR NOT NULL,
    PRIMARY KEY (study, name)
);

CREATE TABLE own_answer (
    study INTEGER NOT NULL,
    metric VARCHAR NOT NULL,
    cell INTEGER NOT NULL,
    per_image BOOLEAN NOT NULL,
    numbers DOUBLE[] NOT NULL
);

CREATE TABLE precision_gate (
    reference INTEGER NOT NULL,
    candidate INTEGER NOT NULL,
    checkpoint VARCHAR NOT NULL,
    category VARCHAR NOT NULL,
    image_set VARCHAR NOT NULL,
    n INTEGER NOT NULL,
    reference_top1 DOUBLE,
    candidate_top1 DOUBLE,
    difference DOUBLE,
    low DOUBLE,
    high DOUBLE,
    lost INTEGER,
    gained INTEGER,
    p DOUBLE,
    flips DOUBLE NOT NULL,
    flips_low DOUBLE NOT NULL,
    flips_high DOUBLE NOT NULL,
    verdict VARCHAR NOT NULL,
    needed BIGINT,
    max_flips DOUBLE NOT NULL,
    max_difference DOUBLE NOT NULL,
    decided TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE release_verdict (
    study INTEGER NOT NULL,
    against VARCHAR NOT NULL,
    cell INTEGER NOT NULL,
    slice VARCHAR NOT NULL,
    measure VARCHAR NOT NULL,
    n INTEGER NOT NULL,
    before DOUBLE,
    now DOUBLE,
    loss DOUBLE NOT NULL,
    loss_low DOUBLE,
    loss_high DOUBLE,
    margin DOUBLE NOT NULL,
    p_pass DOUBLE,
    p_fail DOUBLE,
    verdict VARCHAR NOT NULL,
    needed BIGINT,
    flips DOUBLE,
    relative_flips DOUBLE,
    differs_in VARCHAR,
    decided TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE published_value (
    source VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    benchmark VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    condition VARCHAR NOT NULL,
    input_size BIGINT,
    value DOUBLE,
    low DOUBLE,
    high DOUBLE,
    unit VARCHAR NOT NULL,
    n BIGINT,
    note VARCHAR
);

CREATE TABLE human_trial (
    stimulus_set VARCHAR NOT NULL,
    condition VARCHAR NOT NULL,
    subject VARCHAR NOT NULL,
    session INTEGER NOT NULL,
    trial INTEGER NOT NULL,
    image VARCHAR NOT NULL,
    category VARCHAR NOT NULL,
    response VARCHAR
);

CREATE TABLE human_value (
    metric VARCHAR NOT NULL,
    value DOUBLE,
    low DOUBLE,
    high DOUBLE,
    state VARCHAR NOT NULL,
    note VARCHAR
);

CREATE TABLE error_consistency (
    images VARCHAR NOT NULL,
    condition VARCHAR NOT NULL,
    convention VARCHAR,
    first_subject VARCHAR NOT NULL,
    second_subject VARCHAR NOT NULL,
    humans INTEGER NOT NULL,
    n BIGINT NOT NULL,
    first_accuracy DOUBLE NOT NULL,
    second_accuracy DOUBLE NOT NULL,
    observed DOUBLE NOT NULL,
    kappa DOUBLE,
    low DOUBLE,
    high DOUBLE,
    least DOUBLE,
    most DOUBLE,
    p_copy DOUBLE,
    needed DOUBLE
);

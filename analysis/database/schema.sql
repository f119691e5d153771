-- The results database. Comments go into the database: DuckDB shows them in duckdb_tables() and duckdb_views(). What the
-- columns mean stands in columns.toml. Words in capitals, such as STIMULUS_SETS, stand for what the protocol says of them.

CREATE TABLE meta (schema_version INTEGER NOT NULL, bandlens VARCHAR NOT NULL, created TIMESTAMPTZ NOT NULL DEFAULT now());
COMMENT ON TABLE meta IS 'One row: the version of this schema and of the bandlens that made the file';

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
COMMENT ON TABLE checkpoint IS 'One set of weights as it was exported; weights or export changed make a new row';

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
COMMENT ON TABLE image_set IS 'Images decoded once to fixed-shape uint8';

CREATE TABLE image (image_set INTEGER NOT NULL, image_index UINTEGER NOT NULL, path VARCHAR NOT NULL, cluster UINTEGER NOT NULL);
COMMENT ON TABLE image IS 'The images of each set, in order';

CREATE TABLE label (image_set INTEGER NOT NULL, scheme VARCHAR NOT NULL, image_index UINTEGER NOT NULL, class USMALLINT NOT NULL);
COMMENT ON TABLE label IS 'What counts as right for an image, by label scheme';

CREATE TABLE image_attribute (
    image_set INTEGER NOT NULL,
    image_index UINTEGER NOT NULL,
    name VARCHAR NOT NULL,
    value VARCHAR NOT NULL
);
COMMENT ON TABLE image_attribute IS 'Attributes of images, such as site or scanner: a row an image and name';

CREATE TABLE class_name (
    decision_space VARCHAR NOT NULL,
    class USMALLINT NOT NULL,
    name VARCHAR NOT NULL,
    PRIMARY KEY (decision_space, class)
);
COMMENT ON TABLE class_name IS 'What the classes of decision spaces are called, as far as it is known';

CREATE TABLE own_class_name (
    image_set INTEGER NOT NULL,
    class USMALLINT NOT NULL,
    name VARCHAR NOT NULL,
    PRIMARY KEY (image_set, class)
);
COMMENT ON TABLE own_class_name IS 'What the classes of image sets with labels of their own are called';

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
COMMENT ON TABLE condition IS 'One probe at one parameter setting';

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
COMMENT ON TABLE session IS 'A model loaded in an engine, on a machine';

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
COMMENT ON TABLE study IS 'Each version of a study that was run: the same name with other cells, or other names for them, is a new version';

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
    error VARCHAR,
    ci_low DOUBLE,
    ci_high DOUBLE
);
COMMENT ON TABLE cell IS 'What is asked for, skipped or redone: a checkpoint, an image set, a condition';

CREATE TABLE label_interval (
    cell INTEGER NOT NULL,
    scheme VARCHAR NOT NULL,
    ci_low DOUBLE,
    ci_high DOUBLE,
    PRIMARY KEY (cell, scheme)
);
COMMENT ON TABLE label_interval IS 'Intervals of the accuracy of complete cells by label schemes other than the one that their predictions are ranked by';

CREATE TABLE study_cell (study INTEGER NOT NULL, cell INTEGER NOT NULL);
COMMENT ON TABLE study_cell IS 'The cells that a study consists of, reused ones too';

CREATE TABLE study_checkpoint (
    study INTEGER NOT NULL,
    checkpoint INTEGER NOT NULL,
    name VARCHAR NOT NULL,
    category VARCHAR NOT NULL,
    PRIMARY KEY (study, checkpoint),
    UNIQUE (study, name)
);
COMMENT ON TABLE study_checkpoint IS 'What a version of a study calls its checkpoints: another study may call the same weights otherwise';

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
COMMENT ON TABLE study_image_set IS 'What a version of a study calls its image sets: another study may call the same images otherwise';

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
COMMENT ON TABLE part IS 'A cell''s predictions over a range of images, committed as one';

-- DuckDB tries all compressions of a column as rows come, which takes longer than to write it: the best ones are known.
CREATE TABLE prediction (
    cell INTEGER NOT NULL USING COMPRESSION rle,
    image_index UINTEGER NOT NULL USING COMPRESSION bitpacking,
    predicted USMALLINT NOT NULL USING COMPRESSION bitpacking,
    label_rank USMALLINT USING COMPRESSION bitpacking,
    confidence REAL,
    best_rank USMALLINT USING COMPRESSION bitpacking,
    label_probability REAL USING COMPRESSION uncompressed
);
COMMENT ON TABLE prediction IS 'One row an image and cell';

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
COMMENT ON TABLE measure_value IS 'Numbers of measures, as `bandlens analyze` computed them last for each study';

CREATE TABLE own_measure (
    study INTEGER NOT NULL,
    name VARCHAR NOT NULL,
    title VARCHAR NOT NULL,
    unit VARCHAR NOT NULL,
    digest VARCHAR NOT NULL,
    PRIMARY KEY (study, name)
);
COMMENT ON TABLE own_measure IS 'Measures of the user''s own whose numbers are in measure_value';

CREATE TABLE own_answer (
    study INTEGER NOT NULL,
    metric VARCHAR NOT NULL,
    cell INTEGER NOT NULL,
    per_image BOOLEAN NOT NULL,
    numbers DOUBLE[] NOT NULL
);
COMMENT ON TABLE own_answer IS 'Numbers of images or resamples that values of own measures come of; compare pairs them';

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
COMMENT ON TABLE precision_gate IS 'The last verdict of `bandlens gate precision` on two cells that differ in precision or engine only';

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
COMMENT ON TABLE release_verdict IS 'The last verdicts of `bandlens gate` on a version of a study';

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
COMMENT ON TABLE published_value IS 'Figures of sources that are imported and do not come with the package, such as humans';

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
COMMENT ON TABLE human_trial IS 'Trials of human observers, as `bandlens published import humans` reads them';

CREATE TABLE human_value (
    metric VARCHAR NOT NULL,
    value DOUBLE,
    low DOUBLE,
    high DOUBLE,
    state VARCHAR NOT NULL,
    note VARCHAR
);
COMMENT ON TABLE human_value IS 'Numbers of people by measures of models, from published trials, as `bandlens analyze` wrote them last';

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
COMMENT ON TABLE error_consistency IS 'Whether every two subjects of the view judgement are right and wrong on the same images, as `bandlens analyze` computed it last';

-- Views --------------------------------------------------------------------------------------------------------------

CREATE VIEW study_version AS
SELECT id AS study_id, name AS study, name || '@' || version AS label,
       version = max(version) OVER (PARTITION BY name) AS newest
FROM study;
COMMENT ON VIEW study_version IS 'Studies with the label that asks for a version, and whether it is the newest';

CREATE MACRO unknown_study(which, names) AS concat('unknown study ''', which, '''', coalesce(
    '; did you mean ' || nullif(array_to_string(list_transform(list_sort(list_filter(
        list_transform(names, lambda name: (-jaro_winkler_similarity(name, which::VARCHAR), name)),
        lambda pair: pair[1] <= -0.75))[:3], lambda pair: pair[2]), ' or '), '') || '?',
    '; known: ' || array_to_string(list_sort(names)[:12], ', '),
    '; the database holds none'));
COMMENT ON MACRO unknown_study IS 'What an error says of a study that is not there, with up to three of these names that are near, or else up to twelve';

CREATE MACRO no_study(which) AS TABLE
SELECT NULL::VARCHAR AS study
FROM (
    SELECT count(*) FILTER (label = which OR study = which) AS found, list_distinct(flatten(list([study, label]))) AS names
    FROM study_version
)
-- CASE keeps the error from being evaluated before its turn.
WHERE CASE WHEN which IS DISTINCT FROM '*' AND found = 0 THEN error(unknown_study(which, names))::BOOLEAN ELSE false END;
COMMENT ON MACRO TABLE no_study IS 'No row, or an error where a word fits no study. What takes a word adds it to its rows, since a join may end before it has looked for the study';

CREATE MACRO asks_for(which, study, label, newest) AS label = which OR (newest AND (which = '*' OR study = which));
COMMENT ON MACRO asks_for IS 'Whether a word asks for a version: name (the newest version) or name@version; * stands for the newest of all';

CREATE MACRO version_of(which) AS TABLE
SELECT study_id, study, label FROM study_version WHERE asks_for(which, study, label, newest)
UNION ALL BY NAME
FROM no_study(which);
COMMENT ON MACRO TABLE version_of IS 'The versions that a word asks for: name (its newest version) or name@version; * stands for the newest of all. A word that fits none is an error';

CREATE MACRO cycles_at(cycles_per_pixel, cuts, size) AS
    CASE WHEN cuts THEN floor(2 * cycles_per_pixel * (size // 2)) ELSE cycles_per_pixel * size END;
COMMENT ON MACRO cycles_at IS 'The frequency of a condition in cycles per image of so many pixels a side; filters cut at whole ones';

CREATE VIEW cell_detail AS
SELECT cell.id AS cell, cell.checkpoint AS checkpoint_id, image_set.id AS image_set_id, image_set.labelled,
       image_set.scheme,
       image_set.clusters < image_set.count AS clustered,
       condition.probe = 'clean' AND NOT image_set.labelled AS itself,
       condition.probe, condition.parameters, condition.cutoff, condition.frequency, condition.noise_sd,
       cycles_at(condition.cycles_per_pixel, condition.cuts, image_set.size) AS cycles,
       cell.engine, cell.precision, cell.decision_space, cell.seed,
       -- An attack runs at fp32, whatever its study does: of the clean cells of other engines, one at fp32 is the nearest.
       coalesce(
           max(CASE WHEN condition.probe = 'clean' THEN cell.id END) OVER alike,
           CASE WHEN condition.attack THEN coalesce(
               max(CASE WHEN condition.probe = 'clean' AND cell.precision = 'fp32' THEN cell.id END) OVER of_checkpoint,
               max(CASE WHEN condition.probe = 'clean' THEN cell.id END) OVER of_checkpoint) END
       ) AS clean_cell
FROM cell
JOIN image_set ON image_set.id = cell.image_set
JOIN condition ON condition.id = cell.condition
WHERE cell.complete
-- `labelled` follows from the image set; among the keys, DuckDB hands a filter of it on to the cells.
WINDOW of_checkpoint AS (PARTITION BY cell.checkpoint, cell.image_set, image_set.labelled, cell.decision_space),
       alike AS (PARTITION BY cell.checkpoint, cell.image_set, image_set.labelled, cell.engine, cell.precision,
                              cell.onnx_sha256, cell.decision_space);
COMMENT ON VIEW cell_detail IS 'Complete cells, each with the clean cell that it is compared with; study_detail has the names that a study gave them';

CREATE MACRO named_cell(which) AS TABLE
SELECT version.study_id, version.study, version.label AS version, named.name AS checkpoint, named.category,
       shown.name AS image_set, shown.benchmark, shown.corruption, shown.severity, detail.*
FROM study_version AS version
JOIN study_cell ON study_cell.study = version.study_id
JOIN cell_detail AS detail ON detail.cell = study_cell.cell
-- As pairs: by the study alone, DuckDB would first join each of its cells with each of its checkpoints.
JOIN study_checkpoint AS named ON (named.study, named.checkpoint) = (version.study_id, detail.checkpoint_id)
JOIN study_image_set AS shown ON (shown.study, shown.image_set) = (version.study_id, detail.image_set_id)
WHERE asks_for(which, version.study, version.label, version.newest);
COMMENT ON MACRO TABLE named_cell IS 'What study_detail_of gives, and no rows for a word that fits no study: for macros that refuse it themselves';

CREATE MACRO study_detail_of(which) AS TABLE
FROM named_cell(which)
UNION ALL BY NAME
FROM no_study(which);
COMMENT ON MACRO TABLE study_detail_of IS 'The view study_detail of one study: name (its newest version) or name@version; * stands for all';

CREATE VIEW study_detail AS FROM study_detail_of('*');
COMMENT ON VIEW study_detail IS 'The complete cells of the newest version of each study, under the names that it gave them';

CREATE VIEW cell_outcome AS
SELECT prediction.cell, prediction.image_index, image.cluster, detail.labelled,
       CASE WHEN detail.labelled THEN prediction.label_rank = 0 ELSE prediction.predicted = clean.predicted END AS correct,
       prediction.label_rank, detail.itself
FROM cell_detail AS detail
JOIN prediction ON prediction.cell = detail.cell
JOIN image ON image.image_set = detail.image_set_id AND image.image_index = prediction.image_index
-- Of the clean predictions, only those that something is compared with are read.
LEFT JOIN (
    SELECT before.cell, before.image_index, before.predicted
    FROM prediction AS before
    SEMI JOIN cell_detail ON cell_detail.clean_cell = before.cell AND NOT cell_detail.labelled
) AS clean ON clean.cell = detail.clean_cell AND clean.image_index = prediction.image_index;
COMMENT ON VIEW cell_outcome IS 'Right or wrong for each image: against the label, or else against the clean prediction';

CREATE MACRO clustered_interval(correct, counts) AS NULL::DOUBLE[];
COMMENT ON MACRO clustered_interval IS 'The ends of the 95 % interval of a share, from the right answers and the images of each cluster; NULL where the file is opened without bandlens, which has the formula';

CREATE MACRO right5_of(label_rank) AS
    CASE WHEN max(label_rank) < 65535 THEN sum((label_rank < 5)::INTEGER) END;
COMMENT ON MACRO right5_of IS 'Of predictions: how many have their label among the five highest logits; NULL without labels, and where a rank is not known';

CREATE VIEW cell_accuracy AS
WITH counted AS (
    SELECT part.cell, detail.scheme, sum(count) AS n, sum(right1) AS right1,
           CASE WHEN count(right5) = count(*) THEN sum(right5) END AS right5
    FROM part JOIN cell_detail AS detail ON detail.cell = part.cell
    WHERE detail.labelled
    GROUP BY part.cell, detail.scheme
    UNION ALL
    -- Sums, since they are NULL where there is no clean prediction to compare with.
    SELECT cell, NULL, count(*), sum(correct::INTEGER), NULL
    FROM cell_outcome
    WHERE NOT labelled
    GROUP BY cell
)
SELECT counted.cell, scheme, n::BIGINT AS n, right1 / n AS top1, right5 / n AS top5, cell.ci_low AS low, cell.ci_high AS high
FROM counted JOIN cell ON cell.id = counted.cell;
COMMENT ON VIEW cell_accuracy IS 'Accuracy of each complete cell with its 95 % interval; dependent images count as fewer';

CREATE MACRO classes_decided(space, classes) AS
    CASE space WHEN 'sixteen' THEN 16 WHEN 'imagenet-a' THEN 200 WHEN 'imagenet-r' THEN 200 ELSE classes END;
COMMENT ON MACRO classes_decided IS 'The classes that a model of so many classes decides between in a decision space';

CREATE MACRO right_classes(images) AS (
    SELECT CASE WHEN count(*) > 0 THEN count(*) / count(DISTINCT image_index) ELSE 1 END
    FROM label WHERE image_set = images AND scheme = 'several'
);
COMMENT ON MACRO right_classes IS 'The mean number of classes that are right for an image of a set (image_set.id)';

CREATE MACRO accuracy_of(which) AS TABLE
SELECT detail.study, detail.version, detail.checkpoint, detail.category, detail.image_set,
       CASE WHEN detail.labelled THEN 'accuracy' ELSE 'agreement' END AS measure,
       detail.probe, detail.cutoff, detail.frequency, detail.noise_sd, detail.cycles, detail.parameters,
       result.n, result.top1,
       -- The five highest logits of five hold every label.
       CASE WHEN classes_decided(detail.decision_space, checkpoint.classes) > 5 THEN result.top5 END AS top5,
       result.low, result.high,
       CASE WHEN detail.labelled THEN right_classes(detail.image_set_id)
                                      / classes_decided(detail.decision_space, checkpoint.classes) END AS chance,
       detail.engine, detail.precision, detail.seed
FROM named_cell(which) AS detail
JOIN checkpoint ON checkpoint.id = detail.checkpoint_id
JOIN cell_accuracy AS result ON result.cell = detail.cell
UNION ALL BY NAME
FROM no_study(which);
COMMENT ON MACRO TABLE accuracy_of IS 'The view accuracy of one study: name (its newest version) or name@version; * stands for all';

CREATE VIEW accuracy AS FROM accuracy_of('*');
COMMENT ON VIEW accuracy IS 'Top-1 and top-5 of every cell, with 95 % interval of top-1';

CREATE MACRO own_scheme(scheme) AS scheme IN ('single', 'shape', 'lf_label');
COMMENT ON MACRO own_scheme IS 'Whether label.scheme is that of the labels which predictions are ranked by: each image of a labelled set has one label in it';

CREATE MACRO people_saw(benchmark) AS benchmark IN (STIMULUS_SETS);
COMMENT ON MACRO people_saw IS 'Whether a benchmark is one of the 17 stimulus sets of model-vs-human, whose images people judged too';

CREATE MACRO stimulus_of(path) AS
    CASE WHEN regexp_matches(path, '(^|/)([^_/]+_){6}[^/]+$')
         THEN {'condition': split_part(parse_filename(path), '_', 4),
               'image': array_to_string(string_split(parse_filename(path), '_')[7:], '_')}
         ELSE {'condition': '0', 'image': parse_filename(path)} END;
COMMENT ON MACRO stimulus_of IS 'Of a stimulus named number_set_observer_condition_class_count_image: condition and image, which do not depend on the observer; another name is an image of the only condition, 0';

CREATE MACRO convention_of(images, condition, image) AS
    CASE WHEN (images, condition) IN (UNCOUNTED_CONDITIONS) THEN 'all'
         WHEN images = 'cue-conflict'
              AND regexp_extract(image, '^([a-z]+)', 1) = regexp_extract(image, '-([a-z]+)', 1)
         THEN 'model-vs-human' END;
COMMENT ON MACRO convention_of IS 'The only convention of error consistency by which a judgement counts: all, of conditions that model-vs-human leaves out; model-vs-human, of cue conflicts whose cues do not conflict; NULL where both count it';

CREATE MACRO judged_cell(which) AS TABLE
SELECT study_id, study, version, checkpoint_id, checkpoint, image_set_id, cell, people_saw(benchmark) AS seen,
       CASE WHEN people_saw(benchmark) THEN benchmark
            WHEN min(image_set_id) OVER of_name = max(image_set_id) OVER of_name THEN image_set
            ELSE format('{} ({})', image_set, min(study) OVER (PARTITION BY image_set, image_set_id)) END AS images
FROM named_cell(which)
WHERE probe = 'clean' AND labelled
WINDOW of_name AS (PARTITION BY image_set, people_saw(benchmark));
COMMENT ON MACRO TABLE judged_cell IS 'The cells that judgement_of takes answers from, and no rows for a word that fits no study, with what it calls their images: a name that stands for several image sets has the first of the studies beside it that give it to this one';

CREATE MACRO named_judge(which) AS TABLE
WITH ran AS (
    -- Of several cells of a checkpoint on the same images, one: that of most images, and of those the first.
    SELECT DISTINCT ON (images, checkpoint_id) judged.*
    FROM judged_cell(which) AS judged JOIN image_set ON image_set.id = image_set_id
    ORDER BY image_set.count DESC, cell, study_id
)
SELECT *, checkpoint || CASE WHEN count(*) OVER (PARTITION BY images, checkpoint) > 1
                             THEN ' (' || version || ')' ELSE '' END AS subject
FROM ran;
COMMENT ON MACRO TABLE named_judge IS 'Models as judgement_of calls them, each with the cell of its answers, and no rows for a word that fits no study';

CREATE MACRO judgement_of(which) AS TABLE
WITH answered AS (
    -- An image that an observer saw twice under a condition counts where it was seen first.
    SELECT DISTINCT ON (stimulus_set, condition, subject, image) * FROM human_trial ORDER BY session, trial
), judged AS (
    SELECT images, CASE WHEN seen THEN stimulus_of(path).condition ELSE '' END AS condition,
           CASE WHEN seen THEN stimulus_of(path).image ELSE path END AS image, cluster, subject, false AS human,
           label_rank = 0 AS correct
    FROM named_judge(which) AS named
    JOIN prediction ON prediction.cell = named.cell
    JOIN image ON image.image_set = named.image_set_id AND image.image_index = prediction.image_index
    UNION ALL
    SELECT stimulus_set, condition, image, NULL, subject, true, coalesce(category = response, false) FROM answered
)
SELECT *, convention_of(images, condition, image) AS convention FROM judged
UNION ALL BY NAME
SELECT study AS images FROM no_study(which);
COMMENT ON MACRO TABLE judgement_of IS 'The view judgement with the models of one study: name (its newest version) or name@version; * stands for all';

CREATE VIEW judgement AS FROM judgement_of('*');
COMMENT ON VIEW judgement IS 'Who had which unperturbed image right: models, and people where their trials are imported. The shape of a cue conflict is its right answer';

CREATE MACRO condition_accuracy_of(which) AS TABLE
WITH judged AS (
    SELECT *, count(*) OVER (PARTITION BY images, human, subject) AS seen
    FROM judgement_of(which)
    WHERE people_saw(images) AND coalesce(convention, 'all') = 'all'
), photographed AS (
    -- People saw an image in the cluster that it has in the set of the model of most images; else it stands for itself.
    SELECT *, {'seen': seen, 'model': subject, 'cluster': cluster} AS own,
           CASE WHEN human THEN max(own) FILTER (NOT human) OVER of_image ELSE own END AS photograph
    FROM judged
    WINDOW of_image AS (PARTITION BY images, condition, image)
), by_cluster AS (
    SELECT images, condition, convention, human, subject, count(*) AS n, sum(correct::INTEGER) AS right1
    FROM photographed
    GROUP BY images, condition, convention, human, subject, photograph, CASE WHEN photograph IS NULL THEN image END
), counted AS (
    SELECT images, condition, convention, human, subject, sum(n)::BIGINT AS n, sum(right1) / sum(n) AS top1,
           clustered_interval(list(right1)::BIGINT[], list(n)::BIGINT[]) AS ends
    FROM by_cluster
    GROUP BY images, condition, convention, human, subject
)
SELECT * EXCLUDE (ends), ends[1] AS low, ends[2] AS high FROM counted
UNION ALL BY NAME
SELECT study AS images FROM no_study(which);
COMMENT ON MACRO TABLE condition_accuracy_of IS 'The view condition_accuracy with the models of one study: name (its newest version) or name@version; * stands for all';

CREATE VIEW condition_accuracy AS FROM condition_accuracy_of('*');
COMMENT ON VIEW condition_accuracy IS 'Accuracy of models and of people on each stimulus set that people saw, by its condition; of cue conflicts, on those whose cues conflict';

CREATE VIEW stimulus_probe AS
FROM (VALUES STIMULUS_PROBES) AS named(images, probe, scale);
COMMENT ON VIEW stimulus_probe IS 'Which probe makes the stimuli of a set that people saw';

CREATE MACRO human_probe_of(which) AS TABLE
SELECT probe, x AS setting, false AS human, checkpoint AS subject, image_set AS images, n, top1, low, high
FROM accuracy_of(which)
SEMI JOIN stimulus_probe USING (probe)
JOIN (SELECT DISTINCT probe, parameters, x FROM condition) USING (probe, parameters)
WHERE measure = 'accuracy' AND x IS NOT NULL
UNION ALL
FROM (
    SELECT probe, TRY_CAST(ltrim(condition, 'c') AS DOUBLE) / scale AS setting, true, subject, images, n, top1, low, high
    FROM condition_accuracy JOIN stimulus_probe USING (images)
    WHERE human
)
WHERE setting IS NOT NULL
UNION ALL BY NAME
SELECT study AS images FROM no_study(which);
COMMENT ON MACRO TABLE human_probe_of IS 'The view human_probe with the models of one study: name (its newest version) or name@version; * stands for all';

CREATE VIEW human_probe AS FROM human_probe_of('*');
COMMENT ON VIEW human_probe IS 'Accuracy of models under the probes of the experiments with people, and of people under the same conditions. The photographs need not be the same';

CREATE VIEW cell_label_outcome AS
WITH truth AS (SELECT image_set, scheme, image_index, list(class) AS classes FROM label GROUP BY ALL)
SELECT prediction.cell, truth.scheme, prediction.image_index, image.cluster,
       CASE WHEN own_scheme(truth.scheme) THEN prediction.label_rank = 0
            ELSE list_contains(truth.classes, prediction.predicted) END AS correct
FROM cell_detail AS detail
JOIN truth ON truth.image_set = detail.image_set_id
JOIN prediction ON prediction.cell = detail.cell AND prediction.image_index = truth.image_index
JOIN image ON image.image_set = detail.image_set_id AND image.image_index = prediction.image_index;
COMMENT ON VIEW cell_label_outcome IS 'Right or wrong by each label scheme, for the images that have a label in it';

CREATE VIEW cell_label_accuracy AS
SELECT cell, scheme, n, right1 / n AS top1, stored.ci_low AS low, stored.ci_high AS high
FROM (
    SELECT cell, scheme, count(*) AS n, sum(correct::INTEGER) AS right1
    FROM cell_label_outcome
    WHERE NOT own_scheme(scheme)
    GROUP BY cell, scheme
)
LEFT JOIN label_interval AS stored USING (cell, scheme)
UNION ALL
-- By the label that predictions are ranked by, whose sums are kept.
SELECT cell, scheme, n, top1, low, high FROM cell_accuracy WHERE scheme IS NOT NULL;
COMMENT ON VIEW cell_label_accuracy IS 'Accuracy of each complete cell by each label scheme of its images, with its 95 % interval';

CREATE MACRO label_accuracy_of(which) AS TABLE
SELECT detail.study, detail.version, detail.checkpoint, detail.category, detail.image_set,
       detail.benchmark, detail.corruption, detail.severity, result.scheme,
       detail.probe, detail.cutoff, detail.frequency, detail.noise_sd, detail.cycles, detail.parameters,
       result.n, result.top1, result.low, result.high, detail.engine, detail.precision, detail.seed
FROM named_cell(which) AS detail
-- Joined once: DuckDB would compute names that are joined twice once, and hand no filter of theirs on to predictions.
JOIN cell_label_accuracy AS result ON result.cell = detail.cell
UNION ALL BY NAME
FROM no_study(which);
COMMENT ON MACRO TABLE label_accuracy_of IS 'The view label_accuracy of one study: name (its newest version) or name@version; * stands for all';

CREATE VIEW label_accuracy AS FROM label_accuracy_of('*');
COMMENT ON VIEW label_accuracy IS 'Accuracy of every cell by each scheme of labels: the same predictions, judged anew';

CREATE MACRO curve_of(which) AS TABLE
WITH rows AS (FROM accuracy_of(which))
SELECT rows.*, clean.top1 AS clean_top1, rows.top1 / nullif(clean.top1, 0) AS ratio,
       CASE WHEN clean.top1 > clean.chance THEN (rows.top1 - rows.chance) / (clean.top1 - clean.chance) END
           AS ratio_above_chance
FROM rows
-- A version has one clean cell of a checkpoint and image set: it runs on one engine, at one precision, but for attacks.
LEFT JOIN rows AS clean
  ON clean.probe = 'clean' AND clean.version = rows.version AND clean.checkpoint = rows.checkpoint
 AND clean.image_set = rows.image_set;
COMMENT ON MACRO TABLE curve_of IS 'The view curve of one study: name (its newest version) or name@version; * stands for all';

CREATE VIEW curve AS FROM curve_of('*');
COMMENT ON VIEW curve IS 'Accuracy beside the clean accuracy of the same checkpoint, and their ratio';

CREATE VIEW shown_class AS
SELECT image_set, classes, class, own_class_name.name
FROM own_class_name CROSS JOIN (SELECT DISTINCT classes FROM checkpoint)
UNION ALL
SELECT image_set.id, classes, class, class_name.name
FROM image_set JOIN class_name USING (decision_space) CROSS JOIN (SELECT DISTINCT classes FROM checkpoint)
WHERE classes = 1000 AND image_set.id NOT IN (SELECT image_set FROM own_class_name);
COMMENT ON VIEW shown_class IS 'What the classes of each image set are called: its own, or those of its decision space';

CREATE MACRO flip_of(which) AS TABLE
SELECT detail.study, detail.version, detail.checkpoint, detail.category, detail.image_set,
       detail.probe, detail.cutoff, detail.frequency, detail.noise_sd, detail.cycles, detail.parameters,
       prediction.image_index, image.path, before.name AS clean_class, after.name AS class,
       clean.predicted AS clean_predicted, prediction.predicted,
       clean.label_rank AS clean_label_rank, prediction.label_rank,
       clean.confidence AS clean_confidence, prediction.confidence
FROM named_cell(which) AS detail
JOIN prediction ON prediction.cell = detail.cell
JOIN prediction AS clean ON clean.cell = detail.clean_cell AND clean.image_index = prediction.image_index
JOIN image ON image.image_set = detail.image_set_id AND image.image_index = prediction.image_index
JOIN checkpoint ON checkpoint.id = detail.checkpoint_id
LEFT JOIN shown_class AS before ON before.image_set = detail.image_set_id AND before.classes = checkpoint.classes
  AND before.class = clean.predicted
LEFT JOIN shown_class AS after ON after.image_set = detail.image_set_id AND after.classes = checkpoint.classes
  AND after.class = prediction.predicted
WHERE clean.predicted <> prediction.predicted
UNION ALL BY NAME
FROM no_study(which);
COMMENT ON MACRO TABLE flip_of IS 'The view flip of one study: name (its newest version) or name@version; * stands for all';

CREATE VIEW flip AS FROM flip_of('*');
COMMENT ON VIEW flip IS 'Images whose prediction differs from the clean one';

CREATE MACRO octave_share_of(which) AS TABLE
WITH masked AS (
    SELECT *, CASE probe WHEN 'clean' THEN '0123456' ELSE replace(parameters ->> 'keep', 'none', '') END AS kept
    FROM named_cell(which)
    WHERE probe = 'clean' OR (probe = (OCTAVE_PROBE) AND (parameters ->> 'keep') <> '0123456')
), answered AS (
    SELECT masked.* EXCLUDE cell, length(kept)::INTEGER AS count, prediction.image_index,
           -- A probability of 0 counts as the least that a REAL can be.
           CASE WHEN prediction.label_probability IS NOT NULL
                THEN ln(greatest(prediction.label_probability::DOUBLE, (LEAST_PROBABILITY))) END AS log_probability,
           CASE WHEN labelled THEN prediction.label_rank = 0 ELSE prediction.predicted = clean.predicted END AS correct
    FROM masked
    JOIN prediction ON prediction.cell = masked.cell
    LEFT JOIN prediction AS clean ON NOT labelled AND clean.cell = clean_cell AND clean.image_index = prediction.image_index
), weighted AS (
    -- Shapley's weights: |S|! (6 - |S|)! / 7! where S lacks the octave, and the same of S without it where it has it.
    SELECT *, CASE WHEN contains(kept, octave::VARCHAR)
                   THEN factorial(count - 1) * factorial(7 - count)
                   ELSE -factorial(count) * factorial(6 - count) END::DOUBLE / factorial(7)::DOUBLE AS weight
    FROM answered CROSS JOIN (SELECT unnest(range(7))::INTEGER AS octave)
)
SELECT study, version, checkpoint, category, weighted.image_set, image.image_index, image.path, octave,
       sum(weight * correct::INTEGER) AS share,
       CASE WHEN count(log_probability) = count(*) THEN sum(weight * log_probability) END AS log_share
FROM weighted
JOIN image ON image.image_set = image_set_id AND image.image_index = weighted.image_index
GROUP BY study, version, checkpoint, category, weighted.image_set, image.image_index, image.path, octave
HAVING count(*) = 128
UNION ALL BY NAME
FROM no_study(which);
COMMENT ON MACRO TABLE octave_share_of IS 'The view octave_share of one study: name (its newest version) or name@version; * stands for all';

CREATE VIEW octave_share AS FROM octave_share_of('*');
COMMENT ON VIEW octave_share IS 'How much of the right answer to each image is owed to each of seven octaves: the mean over images is the metric octave_share_K; and of the logarithm of the probability of its label';

CREATE MACRO metric_of(which) AS TABLE
SELECT version.study, version.label AS version, named.name AS checkpoint, named.category,
       shown.name AS image_set, found.metric, found.value, found.low, found.high, found.state, found.note
FROM measure_value AS found
JOIN study_version AS version ON version.study_id = found.study
JOIN study_checkpoint AS named ON named.study = found.study AND named.checkpoint = found.checkpoint
LEFT JOIN study_image_set AS shown ON shown.study = found.study AND shown.image_set = found.image_set
WHERE found.condition IS NULL AND asks_for(which, version.study, version.label, version.newest)
UNION ALL BY NAME
FROM no_study(which);
COMMENT ON MACRO TABLE metric_of IS 'The view metric of one study: name (its newest version) or name@version; * stands for all';

CREATE VIEW metric AS FROM metric_of('*');
COMMENT ON VIEW metric IS 'Biases, thresholds and generalization, as computed last';

CREATE MACRO human_metric_of(which) AS TABLE
SELECT metric, false AS human, checkpoint AS subject, category, image_set AS images, value, low, high, state, note
FROM metric_of(which)
SEMI JOIN human_value USING (metric)
SEMI JOIN (
    SELECT label AS version, shown.name AS image_set
    FROM study_version JOIN study_image_set AS shown ON shown.study = study_id JOIN image_set ON image_set.id = shown.image_set
    WHERE labelled
) AS labelled USING (version, image_set)
UNION ALL BY NAME
SELECT metric, true AS human, 'humans' AS subject, 'humans' AS category, value, low, high, state, note FROM human_value
UNION ALL BY NAME
SELECT study AS metric FROM no_study(which);
COMMENT ON MACRO TABLE human_metric_of IS 'The view human_metric with the models of one study: name (its newest version) or name@version; * stands for all';

CREATE VIEW human_metric AS FROM human_metric_of('*');
COMMENT ON VIEW human_metric IS 'Numbers of models against labels that people have, too, and those of people by the same measure. The images need not be the same';

CREATE MACRO condition_metric_of(which) AS TABLE
SELECT version.study, version.label AS version, named.name AS checkpoint, named.category, shown.name AS image_set,
       condition.probe, condition.cutoff, condition.frequency, condition.noise_sd,
       cycles_at(condition.cycles_per_pixel, condition.cuts, image_set.size) AS cycles, condition.parameters,
       found.metric, found.n, found.value, found.low, found.high,
       found.difference, found.difference_low, found.difference_high, found.state, found.note
FROM measure_value AS found
JOIN study_version AS version ON version.study_id = found.study
JOIN study_checkpoint AS named ON named.study = found.study AND named.checkpoint = found.checkpoint
JOIN condition ON condition.id = found.condition
LEFT JOIN study_image_set AS shown ON shown.study = found.study AND shown.image_set = found.image_set
LEFT JOIN image_set ON image_set.id = found.image_set
WHERE asks_for(which, version.study, version.label, version.newest)
UNION ALL BY NAME
FROM no_study(which);
COMMENT ON MACRO TABLE condition_metric_of IS 'The view condition_metric of one study: name (its newest version) or name@version; * stands for all';

CREATE VIEW condition_metric AS FROM condition_metric_of('*');
COMMENT ON VIEW condition_metric IS 'Metrics of every condition, as computed last, and how they differ from those of the clean images';

CREATE VIEW gate AS
SELECT found.checkpoint, found.category, found.image_set, detail.probe, detail.cutoff, detail.frequency,
       detail.noise_sd, detail.cycles, detail.parameters,
       trusted.engine || ':' || trusted.precision AS reference, detail.engine || ':' || detail.precision AS candidate,
       found.n, found.reference_top1, found.candidate_top1, found.difference, found.low, found.high, found.lost,
       found.gained, found.p, found.flips, found.flips_low, found.flips_high, found.verdict, found.needed,
       found.max_flips, found.max_difference, found.decided,
       found.reference AS reference_cell, found.candidate AS candidate_cell
FROM precision_gate AS found
JOIN cell AS trusted ON trusted.id = found.reference
JOIN cell_detail AS detail ON detail.cell = found.candidate;
COMMENT ON VIEW gate IS 'Precision gates in words: whether a faster precision gives the predictions of a trusted one';

CREATE VIEW release_gate AS
SELECT version.study, version.label AS version, found.against, named.name AS checkpoint, named.category,
       shown.name AS image_set, detail.probe, detail.cutoff, detail.frequency, detail.noise_sd, detail.cycles,
       detail.parameters, found.slice, found.measure, found.n, found.before, found.now, found.loss, found.loss_low,
       found.loss_high, found.margin, found.p_pass, found.p_fail, found.verdict, found.needed, found.flips,
       found.relative_flips, found.differs_in, found.decided, found.cell
FROM release_verdict AS found
JOIN study_version AS version ON version.study_id = found.study
JOIN cell_detail AS detail ON detail.cell = found.cell
JOIN study_checkpoint AS named ON (named.study, named.checkpoint) = (found.study, detail.checkpoint_id)
JOIN study_image_set AS shown ON (shown.study, shown.image_set) = (found.study, detail.image_set_id);
COMMENT ON VIEW release_gate IS 'Verdicts on releases in words: whether a version of a study answers no worse than the release before it';

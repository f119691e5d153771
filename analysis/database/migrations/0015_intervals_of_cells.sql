-- The intervals of complete cells are computed by `Store.renew_intervals` once the tables are there.

ALTER TABLE cell ADD COLUMN ci_low DOUBLE;

ALTER TABLE cell ADD COLUMN ci_high DOUBLE;

CREATE TABLE label_interval (
    cell INTEGER NOT NULL,
    scheme VARCHAR NOT NULL,
    ci_low DOUBLE,
    ci_high DOUBLE,
    PRIMARY KEY (cell, scheme)
);

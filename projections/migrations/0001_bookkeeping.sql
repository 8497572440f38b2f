-- What a database knows of itself: of which definitions its tables are, and how far it has read.
CREATE TABLE weir.definitions (
    name VARCHAR NOT NULL,
    version INTEGER NOT NULL,
    digest VARCHAR NOT NULL
);

-- One row: a schemas.log.Cursor as JSON. It changes in the transaction of the rows it covers.
CREATE TABLE weir.cursor (value BLOB NOT NULL);
